import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sagdeploy.errors import ConfigError, ModelError
from sagdeploy.export.graph import export_extractor
from sagdeploy.export.parity import TOLERANCE, difference
from sagdeploy.models.extractors import RECIPES, build_extractor, read_weights
from sagdeploy.models.mobilenet import MobileNetV2
from sagdeploy.models.resnet import ResNet18
from sagdeploy.serving.runtime import load_graph

LEARNED = sorted(name for name, recipe in RECIPES.items() if recipe.learned)


def tiles(count: int = 2, height: int = 64, width: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", RECIPES)
def test_bytes_become_features_of_the_promised_length(name: str) -> None:
    extractor = build_extractor(name, seed=0 if name in LEARNED else None)
    features = extractor(tiles())
    assert features.shape == (2, RECIPES[name].features)
    assert features.dtype == torch.float32
    assert extractor.card.features == features.shape[1]
    assert extractor.card.name == name
    assert torch.equal(extractor(tiles()), features)
    assert (features[0] - features[1]).abs().max() > 1e-4


@pytest.mark.parametrize("name", LEARNED)
def test_random_weights_must_be_asked_for(name: str) -> None:
    with pytest.raises(ConfigError, match="needs a file of weights") as refusal:
        build_extractor(name)
    assert "--weights" in refusal.value.hint
    first, second, other = (build_extractor(name, seed=seed) for seed in (3, 3, 4))
    assert first.card.weights == "random, seed 3: for tests only"
    assert torch.equal(first(tiles()), second(tiles()))
    assert not torch.equal(first(tiles()), other(tiles()))


def test_scaling_in_the_first_convolution_is_scaling_of_the_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MobileNetV2().eval()
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    extractor = build_extractor("mobilenet_v2", tmp_path / "net.safetensors")
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    plain = network(((tiles() / 255 - mean) / spread).permute(0, 3, 1, 2))
    torch.testing.assert_close(extractor(tiles()), plain, rtol=1e-3, atol=1e-4)
    assert extractor.card.weights.startswith("net.safetensors ")


def test_mobilenet_has_torchvisions_names() -> None:
    names = list(MobileNetV2().state_dict())
    assert len(names) == 314
    assert names[0] == "features.0.0.weight"
    assert "features.1.conv.1.weight" in names  # the first block does not expand
    assert "features.17.conv.3.running_var" in names
    assert names[-1] == "classifier.1.bias"
    assert sum(p.numel() for p in MobileNetV2().features.parameters()) == 2_223_872


def test_tensorflow_pads_right_and_below() -> None:
    torch.manual_seed(0)
    plain, tensorflow = MobileNetV2(), MobileNetV2(tensorflow=True)
    tensorflow.load_state_dict(plain.state_dict())
    strided = [m for m in tensorflow.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) == 5
    x = torch.randn(1, 3, 6, 10)
    expected = F.conv2d(F.pad(x, (0, 1, 0, 1)), strided[0].weight, stride=2)
    torch.testing.assert_close(strided[0](x), expected)


def test_the_public_imagenet_weights_load_and_say_whose_they_are(shared_data: Path) -> None:
    path = shared_data / "weights" / "mobilenet_v2_imagenet_dequantised.pt"
    extractor = build_extractor("mobilenet_v2_tf", path)
    assert extractor.card.weights.startswith(path.name)
    assert extractor(tiles()).std() > 0.1


def test_resnet_has_norms_without_parameters() -> None:
    assert len(ResNet18().state_dict()) == 20
    assert sum(p.numel() for p in ResNet18().parameters()) == 11_166_912


def simclr_names(name: str) -> str:
    """What DSMIL's SimCLR file calls a weight."""
    for index in range(1, 5):
        name = name.replace(f"layer{index}.", f"features.{index + 3}.")
    return name.replace("conv1.weight", "features.0.weight") if name == "conv1.weight" else name


def test_both_kinds_of_dsmil_file_load_by_name(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = ResNet18().eval()
    own = network.state_dict()
    heads = {f"{n}.{k}": torch.zeros(4) for n in ("l1", "l2") for k in ("weight", "bias")}
    simclr = {simclr_names(name): value for name, value in own.items()} | heads
    assert len(simclr) == 24
    assert "features.5.0.downsample.0.weight" in simclr
    extracted = {f"feature_extractor.{name}": value for name, value in own.items()}
    extracted |= {"fc.weight": torch.zeros(1, 512), "fc.bias": torch.zeros(1)}
    expected = network((tiles() / 255).permute(0, 3, 1, 2))
    for kind, weights in {"simclr": simclr, "extracted": extracted, "own": own}.items():
        path = tmp_path / f"{kind}.pth"
        shuffled = dict(sorted(weights.items(), key=lambda item: item[0][::-1]))
        torch.save({f"module.{name}": value for name, value in shuffled.items()}, path)
        features = build_extractor("resnet18_instancenorm", path)(tiles())
        torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


class Payload:
    """Runs code when it is unpickled by a reader that lets it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


def test_a_file_that_holds_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"features.0.0.weight": Payload()}, path)
    with pytest.raises(ModelError, match="any code"):
        read_weights(path)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 40, b"PK\x03\x04 cut short", pickle.dumps([1], protocol=2)]
)
def test_a_file_that_is_not_weights_is_refused_in_one_line(
    tmp_path: Path, name: str, data: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ModelError) as refusal:
        read_weights(path)
    assert "\n" not in str(refusal.value)
    assert name in str(refusal.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(ResNet18().state_dict(), path)
    with pytest.raises(ModelError, match="not the weights of this network"):
        build_extractor("mobilenet_v2", path)


def test_a_missing_file_or_name_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        build_extractor("mobilenet_v2", tmp_path / "absent.pt")
    with pytest.raises(ConfigError, match="no extractor 'uni'"):
        build_extractor("uni")
    with pytest.raises(ConfigError, match="no weights"):
        build_extractor("stain_texture", tmp_path / "absent.pt")


def test_without_a_net_the_download_fails_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ConfigError, match="cannot be fetched") as refusal:
        build_extractor("mobilenet_v2", Path("imagenet"))
    assert "--weights FILE" in refusal.value.hint
    with pytest.raises(ConfigError, match="no weights to download"):
        build_extractor("resnet18_instancenorm", Path("imagenet"))


def test_a_downloaded_file_must_have_the_hash_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "mobilenet_v2-b0353104.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"something else")
    with pytest.raises(ModelError, match="b0353104"):
        build_extractor("mobilenet_v2", Path("imagenet"))


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"mobilenet_v2"}))  # as mobilenet_v2_tf
def test_onnx_runtime_gives_the_same_features_at_any_size(name: str, tmp_path: Path) -> None:
    extractor = build_extractor(name, seed=0 if name in LEARNED else None)
    path = export_extractor(extractor, tmp_path / "model.onnx", tile_px=extractor.card.tile_px)
    graph = load_graph(path)
    for batch in (tiles(1, 128, 128), tiles(3, 64, 98)):
        features = graph.run({"tiles": batch.numpy()})["features"].astype(np.float32)
        expected = extractor(batch).numpy()
        assert expected.std() > 1e-3
        assert difference(features, expected) < TOLERANCE


@pytest.mark.parametrize("data", [b"\x80\x02.", b"\x80\x02", b"\x80\x02}q\x00h\x07."])
def test_a_broken_pickle_is_refused_and_never_a_bug(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(ModelError, match="not a file of weights alone"):
        read_weights(tmp_path / "w.pth")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = ResNet18().state_dict()
    weights["layer3.0.conv1.weight"][0, 0, 1, 2] = float("nan")
    save_file(weights, tmp_path / "nan.safetensors")
    with pytest.raises(ModelError, match=r"layer3\.0\.conv1\.weight is not finite"):
        build_extractor("resnet18_instancenorm", tmp_path / "nan.safetensors")
