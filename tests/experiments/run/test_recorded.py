"""Who looks at a run folder runs none of its code: not the run's own files, nor its model's."""

import json

import pytest
from omegaconf import OmegaConf

from isentropic.experiments.run.recorded import RecordedRun, decoder
from isentropic.experiments.settings.compose import compose
from isentropic.models.source import EMBEDDED

TRACE = "from pathlib import Path\nPath({path!r}).touch()\n"


@pytest.fixture
def stranger(tmp_path):
    """(a run folder whose task, objective and tokenizer leave a trace when they run, the trace)."""

    def make(**model):
        trace = tmp_path / "trace"
        values = OmegaConf.to_container(compose(["experiment=ce_gppo_tiny"]), resolve=True)
        values["task"] = {"name": "own", "file": "evil.py", "class_name": "T"}
        values["task"] |= {"settings": {}, "on_long_prompt": "refuse"}
        values["objective"] = {"name": "own", "file": "evil.py", "function_name": "f"}
        values["model"] |= model
        for key in ("task", "objective"):
            code = tmp_path / "code" / key
            code.mkdir(parents=True)
            (code / "evil.py").write_text(TRACE.format(path=str(trace)))
        (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(values))
        return tmp_path, trace

    return make


def test_looking_at_a_folder_runs_none_of_its_files(stranger):
    folder, trace = stranger()
    assert callable(decoder(folder))
    assert RecordedRun(folder).plain.model.path == EMBEDDED
    assert not trace.exists()
    with pytest.raises(ValueError):  # as a replay does; that it runs the files is its purpose
        _ = RecordedRun(folder).config
    assert trace.exists(), "else this test shows nothing"


def test_the_folders_own_word_lets_no_tokenizer_run(stranger, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    folder, trace = stranger(path=str(model), trust_remote_code=True, revision=None)
    classes = {"AutoTokenizer": ["evil.Evil", None]}
    (model / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": classes})
    )
    (model / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (model / "evil.py").write_text(TRACE.format(path=str(trace)) + "class Evil: ...\n")
    assert decoder(folder) is None
    assert not trace.exists()
