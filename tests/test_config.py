"""Settings are checked whole: every wrong key is named at once."""

from pathlib import Path

import pytest

from sagdeploy.config import RECIPES, TrainSettings, override, read_settings
from sagdeploy.errors import ConfigError


def test_no_file_means_the_defaults() -> None:
    assert read_settings(None) == TrainSettings()


def test_a_file_overrides_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text('[model]\nname = "scatnet"\n[optim]\nepochs = 7\n')
    settings = read_settings(path)
    assert (settings.model.name, settings.optim.epochs) == ("scatnet", 7)
    assert settings.guidance == TrainSettings().guidance


def test_every_wrong_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text('[optim]\nepoch = 7\nlr = "fast"\n[guidance]\nweight = -1\n')
    with pytest.raises(ConfigError) as error:
        read_settings(path)
    for key in ("optim.epoch", "optim.lr", "guidance.weight"):
        assert key in str(error.value)


@pytest.mark.parametrize("text", ["a = ", "\x00", "[[["])
def test_what_is_not_toml_is_one_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_settings(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        read_settings(tmp_path / "none.toml")


def test_the_command_line_wins() -> None:
    settings = override(TrainSettings(), model="scatnet", guidance="hg,tg", epochs=3)
    assert settings.model.name == "scatnet"
    assert settings.guidance.terms == ("hg", "tg")
    assert settings.optim.epochs == 3
    assert override(settings, guidance="none").guidance.terms == ()


def test_an_unknown_guidance_is_refused() -> None:
    with pytest.raises(ConfigError, match="guidance"):
        override(TrainSettings(), guidance="hg,xg")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_are_settings_and_are_found_by_name(path: Path) -> None:
    settings = read_settings(Path(path.stem))
    assert settings == read_settings(path)
    assert settings.model.name in path.stem


@pytest.mark.parametrize("data", ["camelyon16", "melanoma"])
@pytest.mark.parametrize(
    ("model", "lr", "bag_batch", "schedule"),
    [("abmil", 2e-4, 1, "cosine"), ("scatnet", 5e-4, 16, "step")],
)
def test_the_paper_s_protocols_choose_on_validation(
    data: str, model: str, lr: float, bag_batch: int, schedule: str
) -> None:
    settings = read_settings(Path(f"{data}-{model}"))
    assert (settings.optim.lr, settings.optim.bag_batch) == (lr, bag_batch)
    assert (settings.optim.schedule, settings.optim.epochs) == (schedule, 200)
    assert (settings.select_by, settings.guidance.terms) == ("loss", ("hg", "tg"))
    assert settings.validation_share > 0


def test_a_file_wins_over_a_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("melanoma-abmil").write_text("patience = 7\n")
    assert read_settings(Path("melanoma-abmil")).patience == 7


def test_an_unknown_recipe_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError) as error:
        read_settings(Path("camelyon17-abmil"))
    assert "camelyon16-abmil, camelyon16-scatnet, melanoma-abmil" in error.value.hint
