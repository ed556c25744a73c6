"""config.pbtxt as Triton's schema has it."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagdeploy.errors import ModelError, RepositoryError
from sagdeploy.serving.model_config import (
    Tensor,
    check_batch,
    check_graph,
    check_inputs,
    config_text,
    new_config,
    parse_config,
    read_config,
)

TILES = Tensor("tiles", "uint8", (-1, 24, 36, 3))
FEATURES = Tensor("features", "float32", (-1, 5))

tensors = st.builds(
    Tensor,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.sampled_from(["bool", "uint8", "int32", "int64", "float16", "float32", "float64"]),
    st.lists(st.integers(-1, 2**40), max_size=4).map(tuple),
)


@given(st.lists(tensors, max_size=3), st.lists(tensors, max_size=3))
def test_what_is_written_is_what_is_read(inputs: list[Tensor], outputs: list[Tensor]) -> None:
    config = new_config("é_model", inputs=inputs, outputs=outputs, backend="onnxruntime")
    again = parse_config(config_text(config), "here")
    assert (again.name, again.inputs, again.outputs) == ("é_model", tuple(inputs), tuple(outputs))
    assert config_text(again) == config_text(config)


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", (7,)),
        ("version_policy { latest { num_versions: 2 } }", (3, 7)),
        ("version_policy { all {} }", (1, 3, 7)),
        ("version_policy { specific { versions: [3, 1, 9] } }", (1, 3)),
    ],
)
def test_versions_are_served_by_the_policy(policy: str, served: tuple[int, ...]) -> None:
    assert parse_config(policy, "here").served([7, 1, 3]) == served


def test_steps_keep_their_maps_and_versions() -> None:
    text = """ensemble_scheduling { step [
        { model_name: "a" model_version: 4 input_map { key: "x" value: "y" } },
        { model_name: "b" model_version: -1 output_map { key: "z" value: "w" } } ] }"""
    first, second = parse_config(text, "here").steps
    assert (first.model, first.version, first.inputs, first.outputs) == ("a", 4, {"x": "y"}, {})
    assert (second.version, second.outputs) == (None, {"z": "w"})


def test_a_configuration_takes_the_name_of_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "sag" / "config.pbtxt"
    path.parent.mkdir()
    path.write_text("max_batch_size: 0")
    assert read_config(path).name == "sag"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"foo: 3", id="unknown field"),
        pytest.param(b'name: "other"', id="other name"),
        pytest.param(b"input [ {\n name: \n", id="cut off"),
        pytest.param(b"\xff\xfe\x00", id="not text"),
        pytest.param(None, id="missing"),
    ],
)
def test_a_broken_configuration_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "sag" / "config.pbtxt"
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RepositoryError, match=r"config\.pbtxt") as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("tiles", "uint8", (-1, 36, 24, 3)),
        Tensor("tiles", "float32", (-1, 24, 36, 3)),
        Tensor("image", "uint8", (-1, 24, 36, 3)),
        Tensor("tiles", "uint8", (-1, -1, -1, 3)),
    ],
)
def test_an_input_wider_than_the_graphs_is_refused(tensor: Tensor) -> None:
    config = new_config("m", inputs=[tensor], outputs=[FEATURES])
    with pytest.raises(ModelError, match="m: "):
        check_graph(config, inputs=[TILES], outputs=[FEATURES])


def test_an_input_narrower_than_the_graphs_is_taken() -> None:
    config = new_config("m", inputs=[Tensor("tiles", "uint8", (16, 24, 36, 3))], outputs=[FEATURES])
    check_graph(config, inputs=[TILES], outputs=[FEATURES])


JUDGED_ELSEWHERE = {
    "bad_param", "gpu_kind", "name_mismatch", "unknown_field",  # not a matter of tensors
    "corrupt", "missing_file",
    "mil_att_reshape",  # no model of ours is reshaped
}  # fmt: skip


def test_graphs_are_judged_as_triton_judges_them(shared_data: Path) -> None:
    graphs = {
        "ext": ([Tensor("tiles", "uint8", (-1, 224, 224, 3))],
                [Tensor("features", "float32", (-1, 512))]),
        "mil": ([Tensor("features", "float32", (-1, 512))],
                [Tensor("probabilities", "float32", (1, 2)),
                 Tensor("attention", "float32", (1, -1))]),
    }  # fmt: skip
    verdicts = json.loads((shared_data / "triton-verdicts.json").read_text())["configurations"]
    ours: dict[str, str] = {}
    for name in verdicts.keys() - JUDGED_ELSEWHERE:
        inputs, outputs = graphs[verdicts[name]["model"].partition("@")[0]]
        config = parse_config(verdicts[name]["config"] or "", name)
        try:
            check_graph(config, inputs=inputs, outputs=outputs)
            ours[name] = "accept"
        except ModelError:
            ours[name] = "refuse"
    assert len(ours) == 24
    assert ours == {name: verdicts[name]["verdict"] for name in ours}


def test_batched_tensors_are_written_as_triton_wants_them() -> None:
    config = new_config("m", inputs=[TILES], outputs=[FEATURES], largest_batch=64)
    assert [list(item.dims) for item in config.message.input] == [[24, 36, 3]]
    again = parse_config(config_text(config), "here")
    assert (again.inputs, again.outputs, again.largest_batch) == ((TILES,), (FEATURES,), 64)
    assert again.message.HasField("dynamic_batching")


@pytest.mark.parametrize(("largest", "count", "fits"), [(4, 4, True), (4, 5, False), (0, 9, True)])
def test_a_request_is_never_split(largest: int, count: int, fits: bool) -> None:
    config = new_config("m", inputs=[TILES], outputs=[FEATURES], largest_batch=largest)
    with nullcontext() if fits else pytest.raises(ModelError, match="takes 4 at once, not 5"):
        check_batch(config, {"tiles": np.zeros((count, 24, 36, 3), np.uint8)})


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"tiles": np.zeros((2, 24, 36, 3), np.uint8), "x": np.zeros(1)},
        {"tiles": np.zeros((2, 36, 24, 3), np.uint8)},
        {"tiles": np.zeros((2, 24, 36, 3), np.int8)},
        {"tiles": np.zeros((0, 24, 36, 3), np.uint8)},
    ],
)
def test_inputs_that_the_model_does_not_take_are_refused(inputs: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="sag"):
        check_inputs("sag", [TILES], inputs)


def test_the_schema_is_loaded_without_grpc() -> None:
    code = (
        "import sys; from sagdeploy.serving.model_config import parse_config;"
        "parse_config('', ''); assert not {'grpc', 'tritonclient.grpc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
