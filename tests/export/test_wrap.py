"""A user's ONNX extractor behind a front for tiles as bytes."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from sagdeploy.errors import ModelError
from sagdeploy.export.wrap import wrap_onnx
from sagdeploy.serving.runtime import extractor_card, load_graph

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def float_graph(
    image: str = "float[N,3,H,W]",
    output: str = "float[N,6] tiles",
    body: str = "tiles = ReduceMean<keepdims = 0>(features, sides)",
    header: str = 'ir_version: 8, opset_import: ["" : 18]',
) -> onnx.ModelProto:
    """Mean of left and right half by channel; its names are those that ours get."""
    constants = "<int64[1] sides = {2}, int64[2] both = {2, 3}>"
    text = f"<{header}> g ({image} features) => ({output}) {constants} {{ {body} }}"
    return onnx.parser.parse_model(text)


HALVES = """
    left, right = Split<axis = 3, num_outputs = 2>(features)
    a = ReduceMean<keepdims = 0>(left, both)
    b = ReduceMean<keepdims = 0>(right, both)
    tiles = Concat<axis = 1>(a, b)
"""
COLUMNS = HALVES.replace("keepdims = 0", "keepdims = 1")  # (N, 6, 1, 1)


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("body", "output"), [(HALVES, "float[N,6] tiles"), (COLUMNS, "float[N,6,1,1] tiles")]
)
def test_the_front_is_the_preprocessing(tmp_path: Path, body: str, output: str) -> None:
    source = save(float_graph(output=output, body=body), tmp_path / "source.onnx")
    path = wrap_onnx(source, tmp_path / "wrapped.onnx", mean=MEAN, std=STD)
    tiles = np.random.default_rng(2).integers(0, 256, (5, 10, 12, 3), np.uint8)
    image = (tiles / 255 - MEAN) / STD
    expected = np.concatenate([image[:, :, :6].mean((1, 2)), image[:, :, 6:].mean((1, 2))], axis=1)
    graph = load_graph(path)
    assert graph.outputs[0].dims == (-1, 6)
    np.testing.assert_allclose(graph.run({"tiles": tiles})["features"], expected, atol=1e-5)
    assert extractor_card(path, name="halves", weights="none").features == 6


def test_bytes_are_transposed_before_they_become_floats(tmp_path: Path) -> None:
    source = save(float_graph(body=HALVES), tmp_path / "source.onnx")
    model = onnx.load(wrap_onnx(source, tmp_path / "wrapped.onnx"))
    assert [node.op_type for node in model.graph.node[:4]] == ["Transpose", "Cast", "Sub", "Mul"]
    assert model.ir_version == 10


@pytest.mark.parametrize(
    ("image", "tile_px", "side"),
    [("float[N,3,H,W]", None, None), ("float[N,3,H,W]", 48, 48), ("float[N,3,32,32]", None, 32)],
)
def test_the_side_is_the_graphs_or_the_one_that_is_given(
    tmp_path: Path, image: str, tile_px: int | None, side: int | None
) -> None:
    source = save(float_graph(image, body=HALVES), tmp_path / "source.onnx")
    path = wrap_onnx(source, tmp_path / "wrapped.onnx", tile_px=tile_px)
    assert extractor_card(path, name="halves", weights="none").tile_px == side


def extractor(names: tuple[str, str] = ("tiles", "features")) -> onnx.ModelProto:
    tiles, features = names
    return onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 18]>
        g (uint8[N,H,W,3] {tiles}) => (float[N,3] {features}) <int64[2] both = {{1, 2}}>
        {{ x = Cast<to = 1>({tiles}) {features} = ReduceMean<keepdims = 0>(x, both) }}""")


def test_an_extractor_that_starts_at_bytes_stays_as_it_is(tmp_path: Path) -> None:
    source = save(extractor(), tmp_path / "source.onnx")
    path = wrap_onnx(source, tmp_path / "wrapped.onnx")
    assert path.read_bytes() == source.read_bytes()


def test_other_names_are_changed_and_nothing_else(tmp_path: Path) -> None:
    source = save(extractor(("image", "embedding")), tmp_path / "source.onnx")
    graph = load_graph(wrap_onnx(source, tmp_path / "wrapped.onnx"))
    tiles = np.random.default_rng(2).integers(0, 256, (5, 10, 12, 3), np.uint8)
    features = graph.run({"tiles": tiles})["features"]
    np.testing.assert_allclose(features, tiles.mean((1, 2)), atol=1e-4)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        pytest.param(float_graph("float[1,3,H,W]", body=HALVES), "open N", id="fixed batch"),
        pytest.param(float_graph("float[N,4,H,W]", body=HALVES), "open N", id="four channels"),
        pytest.param(float_graph("float[N,3,H]", "float[N,3] tiles"), "N, 3, H, W", id="rank"),
        pytest.param(
            float_graph("float[N,3,32,48]", body=HALVES), "square tiles", id="not square"
        ),
        pytest.param(
            float_graph(output="float[N,3,W] tiles"), "not float32", id="tokens, not a vector"
        ),
        pytest.param(
            float_graph("float16[N,3,H,W]", "float16[N,6] tiles", HALVES), "takes", id="half"
        ),
        pytest.param(
            float_graph(
                output="float[N,6] tiles, float[N,3] a", body=HALVES
            ), "2 outputs", id="two outputs"
        ),
        pytest.param(
            float_graph(body=HALVES, header='ir_version: 10, opset_import: ["" : 22]'),
            "opset 22",
            id="new opset",
        ),
        pytest.param(
            float_graph(
                body="tiles = evil.Run(features)",
                header='ir_version: 8, opset_import: ["" : 18, "evil" : 1]',
            ),
            "evil",
            id="foreign operator",
        ),
    ],
)  # fmt: skip
def test_what_is_no_extractor_is_refused_in_a_line(
    tmp_path: Path, model: onnx.ModelProto, told: str
) -> None:
    source = save(model, tmp_path / "source.onnx")
    with pytest.raises(ModelError, match=rf"source\.onnx.*{told}") as caught:
        wrap_onnx(source, tmp_path / "wrapped.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "wrapped.onnx").exists()


def test_another_side_than_the_graphs_is_refused(tmp_path: Path) -> None:
    source = save(float_graph("float[N,3,32,32]", body=HALVES), tmp_path / "source.onnx")
    with pytest.raises(ModelError, match="48") as caught:
        wrap_onnx(source, tmp_path / "wrapped.onnx", tile_px=48)
    assert "--tile-px 32" in caught.value.hint
