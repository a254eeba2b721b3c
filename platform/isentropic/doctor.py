"""python -m isentropic.doctor: the command in experiments/commands/doctor.py."""

from isentropic.experiments.commands.doctor import program

if __name__ == "__main__":
    program()
