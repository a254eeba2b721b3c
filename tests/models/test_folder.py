"""Broken model folders: each is refused before anything starts, with the file's name and what to do."""

import json
import shutil
import traceback
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from isentropic.config import ModelConfig
from isentropic.models.folder import check_folder
from isentropic.models.pretrained import load_chat

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def cut(name):
    def do(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return do


def write(name, content):
    return lambda folder: (folder / name).write_text(content)


def without(name):
    return lambda folder: (folder / name).unlink()


def config(**changes):
    def do(folder):
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | changes))

    return do


def sharded(damage=lambda folder, places: None):
    """The weights in two files with an index; then `damage`."""

    def do(folder):
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        half = len(weights) // 2
        places = {name: SHARDS[number >= half] for number, name in enumerate(sorted(weights))}
        for shard in SHARDS:
            save_file(
                {name: weights[name] for name in weights if places[name] == shard}, folder / shard
            )
        (folder / INDEX).write_text(json.dumps({"weight_map": places}))
        damage(folder, places)

    return do


def index(change):
    """Another weight_map."""
    return sharded(
        lambda folder, places: (folder / INDEX).write_text(
            json.dumps({"weight_map": change(places)})
        )
    )


BROKEN = {
    "config: cut": (cut("config.json"), r"config\.json is not JSON"),
    "config: empty": (write("config.json", ""), r"config\.json is not JSON"),
    "config: a list": (write("config.json", "[]"), r"config\.json holds list"),
    "config: null": (write("config.json", "null"), r"config\.json holds NoneType"),
    "config: no kind": (write("config.json", "{}"), r"model_type is None"),
    "config: kind 3": (config(model_type=3), r"model_type is 3"),
    "config: unknown kind": (config(model_type="nosuch"), r"config\.json cannot be read.*nosuch"),
    "config: size is text": (config(hidden_size="x"), r"config\.json cannot be read.*hidden_size"),
    "config: size is null": (config(num_hidden_layers=None), r"cannot be read.*num_hidden_layers"),
    "config: size < 0": (config(vocab_size=-1), r"config\.json describes no causal language model"),
    "config: no heads": (config(num_attention_heads=0), r"describes no causal language model"),
    "config: no such activation": (config(hidden_act="nosuch"), r"describes no .*nosuch"),
    "config: a model of images": (config(model_type="vit"), r"describes no causal language model"),
    "config: an encoder": (config(model_type="bert"), r"is an encoder \(model_type bert\)"),
    "config: of another model": (config(intermediate_size=64), r"has the shape \[.*config\.json asks for"),
    "config: another vocabulary": (config(vocab_size=50), r"embed_tokens.*asks for \[50, 64\]"),
    "config: a layer more": (
        config(num_hidden_layers=3, layer_types=["full_attention"] * 3),
        r"lack 11 weights of 49,344 numbers, such as model\.layers\.2\.",
    ),
    "tokenizer: cut": (cut("tokenizer.json"), r"tokenizer\.json is not JSON"),
    "tokenizer: empty": (write("tokenizer.json", ""), r"tokenizer\.json is not JSON"),
    "tokenizer: no content": (write("tokenizer.json", "{}"), r"its tokenizer cannot be read"),
    "tokenizer: gone": (without("tokenizer.json"), r"its tokenizer cannot be read"),
    "tokenizer: config cut": (cut("tokenizer_config.json"), r"tokenizer_config\.json is not JSON"),
    "tokenizer: config a list": (write("tokenizer_config.json", "[]"), r"tokenizer_config\.json holds list"),
    "template: gone": (without("chat_template.jinja"), r"no chat template"),
    "end token: text": (
        write("generation_config.json", '{"eos_token_id": "x"}'),
        r"eos_token_id must be a token id .* got 'x'",
    ),
    "generation config: cut": (cut("generation_config.json"), r"generation_config\.json is not JSON"),
    "weights: cut": (cut("model.safetensors"), r"model\.safetensors \([\d,]+ bytes\) cannot be read.*It is cut"),
    "weights: empty": (write("model.safetensors", ""), r"model\.safetensors \(0 bytes\) cannot be read"),
    "weights: noise": (write("model.safetensors", "x" * 99), r"model\.safetensors .* cannot be read"),
    "weights: a pointer": (
        write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        r"pointer of Git LFS.*git lfs pull",
    ),
    "weights: gone": (without("model.safetensors"), r"has no \*\.safetensors"),
    "shards: one gone": (
        sharded(lambda folder, _: (folder / SHARDS[1]).unlink()),
        r"index\.json names the file 'model-00002-of-00002\.safetensors', which is not in",
    ),
    "shards: one cut": (
        sharded(lambda folder, _: cut(SHARDS[1])(folder)),
        r"model-00002-of-00002\.safetensors .* cannot be read.*cut",
    ),
    "index: gone": (sharded(lambda folder, _: (folder / INDEX).unlink()), r"but neither model\.safetensors nor"),
    "index: cut": (sharded(lambda folder, _: cut(INDEX)(folder)), r"index\.json is not JSON"),
    "index: a list": (sharded(lambda folder, _: write(INDEX, "[]")(folder)), r"index\.json holds list"),
    "index: no map": (sharded(lambda folder, _: write(INDEX, "{}")(folder)), r"has no weight_map"),
    "index: of another model": (
        index(lambda places: dict.fromkeys(places, SHARDS[0])),
        r"model-00001-of-00002\.safetensors lacks .* which model\.safetensors\.index\.json says it has",
    ),
    "index: outside the folder": (
        index(lambda places: dict.fromkeys(places, "../x.safetensors")),
        r"names the file '\.\./x\.safetensors'",
    ),
    "index: half": (
        index(lambda places: {n: p for n, p in places.items() if p == SHARDS[0]}),
        r"lack \d+ weights of",
    ),
}  # fmt: skip


@pytest.fixture
def folder(tiny_model_path, tmp_path):
    return shutil.copytree(tiny_model_path, tmp_path / "model")


def check(folder):
    model = ModelConfig(
        name="x",
        path=str(folder),
        revision=None,
        max_length=64,
        trust_remote_code=False,
        warm_start=None,
        image_pixels=None,
    )
    check_folder(model, folder)
    load_chat(model)


@pytest.mark.parametrize("damage", [lambda folder: None, sharded()], ids=["one file", "two shards"])
def test_whole_folders_pass(folder, damage):
    damage(folder)
    check(folder)


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_folders_are_refused_by_name(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        check(folder)
    raised_in = traceback.extract_tb(error.value.__traceback__)[-1].filename
    assert "isentropic" in Path(raised_in).parts  # by us, not by a library: exit code 2
    if "template" not in message:
        assert str(folder) in str(error.value)


def test_the_embedded_vision_model_is_whole(tmp_path):
    from isentropic.models.tiny_vision import write_vision_model

    write_vision_model(tmp_path)
    check(tmp_path)
