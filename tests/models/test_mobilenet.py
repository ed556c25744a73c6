"""MobileNetV2: its weights' names and shapes are torchvision's."""

import pytest
import torch
from torch import nn

from sagdeploy.models.mobilenet import FEATURES, MobileNetV2, TensorFlowConv

NAMES_AND_SHAPES = {
    "features.0.0.weight": (32, 3, 3, 3),
    "features.0.1.running_var": (32,),
    "features.1.conv.0.0.weight": (32, 1, 3, 3),
    "features.1.conv.1.weight": (16, 32, 1, 1),
    "features.1.conv.2.num_batches_tracked": (),
    "features.2.conv.0.0.weight": (96, 16, 1, 1),
    "features.2.conv.1.0.weight": (96, 1, 3, 3),
    "features.2.conv.2.weight": (24, 96, 1, 1),
    "features.7.conv.1.1.bias": (192,),
    "features.17.conv.3.running_mean": (320,),
    "features.18.0.weight": (1280, 320, 1, 1),
    "features.18.1.weight": (1280,),
    "classifier.1.weight": (1000, 1280),
    "classifier.1.bias": (1000,),
}


@pytest.fixture
def network() -> MobileNetV2:
    torch.manual_seed(0)
    return MobileNetV2().eval()


def test_names_and_shapes_are_torchvisions(network: MobileNetV2) -> None:
    shapes = {name: tuple(item.shape) for name, item in network.state_dict().items()}
    assert len(shapes) == 314
    assert {name: shapes[name] for name in NAMES_AND_SHAPES} == NAMES_AND_SHAPES


def test_it_has_the_published_number_of_parameters(network: MobileNetV2) -> None:
    assert sum(item.numel() for item in network.parameters()) == 3_504_872
    assert sum(item.numel() for item in network.features.parameters()) == 2_223_872


def test_a_crop_of_any_size_gives_one_vector(network: MobileNetV2) -> None:
    image = torch.zeros(2, 3, 65, 97)
    with torch.inference_mode():
        assert network.features(image).shape == (2, FEATURES, 3, 4)
        assert network(image).shape == (2, FEATURES)


def test_strides_pad_on_the_right_and_below_as_tensorflow_does() -> None:
    conv = TensorFlowConv(1, 1, 3, 2, bias=False)
    nn.init.ones_(conv.weight)
    image = torch.zeros(1, 1, 4, 6)
    image[0, 0, 0, 0] = 1  # seen once from the top left, where nothing is padded
    image[0, 0, 3, 5] = 10
    with torch.inference_mode():
        assert conv(image)[0, 0].tolist() == [[1, 0, 0], [0, 0, 10]]


def test_tensorflows_padding_is_at_the_five_strides_alone() -> None:
    network = MobileNetV2(tensorflow=True)
    strides = [item for item in network.modules() if isinstance(item, TensorFlowConv)]
    assert [item.stride for item in strides] == [(2, 2)] * 5
    assert network.state_dict().keys() == MobileNetV2().state_dict().keys()
