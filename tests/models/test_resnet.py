"""ResNet18 with instance norm, and DSMIL's two kinds of file."""

import pytest
import torch
from torch import Tensor, nn

from sagdeploy.models.resnet import FEATURES, ResNet18, own_names

CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


@pytest.fixture
def network() -> ResNet18:
    torch.manual_seed(0)
    return ResNet18().eval()


@pytest.fixture
def weights(network: ResNet18) -> dict[str, Tensor]:
    return network.state_dict()


def as_simclr(name: str) -> str:
    first, rest = name.split(".", 1)
    return f"features.{CHILDREN.index(first)}.{rest}"


def test_the_norms_have_no_weights(network: ResNet18, weights: dict[str, Tensor]) -> None:
    assert len(weights) == 20
    assert sum(item.numel() for item in network.parameters()) == 11_166_912


def test_simclrs_files_are_mapped_by_name_and_lose_their_heads(weights: dict[str, Tensor]) -> None:
    file = {as_simclr(name): item for name, item in reversed(weights.items())}
    heads = {"l1.weight": torch.zeros(512, 512), "l2.bias": torch.zeros(256)}
    assert own_names(heads | file).items() == weights.items()
    assert "features.5.0.downsample.0.weight" in file


def test_dsmils_files_keep_their_last_layers(weights: dict[str, Tensor]) -> None:
    file = {f"feature_extractor.{name}": item for name, item in weights.items()}
    found = own_names(file | {"fc.weight": torch.zeros(2, 512), "fc.bias": torch.zeros(2)})
    assert found.keys() == weights.keys()
    assert found["layer4.1.conv2.weight"] is weights["layer4.1.conv2.weight"]


def test_names_of_other_networks_stay_as_they_are_to_be_refused() -> None:
    names = ("features.18.0.weight", "features", "bn1.weight")
    assert tuple(own_names(dict.fromkeys(names, torch.zeros(1)))) == names


def test_each_tile_is_normalised_by_itself(network: ResNet18) -> None:
    images = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    assert together.shape == (3, FEATURES)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_beginning_is_that_of_any_resnet(network: ResNet18) -> None:
    given: list[Tensor] = []
    layer = network.get_submodule("layer1")
    layer.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))
    image = torch.rand(2, 3, 62, 90, generator=torch.Generator().manual_seed(3))
    beginning = nn.Sequential(
        network.conv1, nn.InstanceNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    )
    with torch.inference_mode():
        network(image)
        assert torch.equal(given[0], beginning(image))


def test_training_mode_changes_nothing(network: ResNet18) -> None:
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert torch.equal(network.train()(image), network.eval()(image))
