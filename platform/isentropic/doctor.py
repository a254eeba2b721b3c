"""python -m isentropic.doctor: the same as python jobs/doctor.py."""

from isentropic.experiments.commands.doctor import main

if __name__ == "__main__":
    main()
