"""`resnetrt deploy` takes what `export` takes."""

import pytest

from resnetrt.cli import run
from resnetrt.cli.deploy import command as deploy
from resnetrt.cli.export import command as export


def test_deploy_says_everything_of_the_model_that_export_can_say():
    options = {option.name for option in export.params}
    assert options - {option.name for option in deploy.params} == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mean", "0.1,0.2,0.3"], "--mean: expected 1 numbers for fashion_resnet20, found 3"),
        (["--size", "28", "--resize", "20"], "preprocessing: expected resize >= size >= 1, found resize 20"),
        (["--recipe", "absent.json"], "recipe absent.json: expected a JSON file, found"),
        (["--golden-data", "absent"], "absent"),
    ],
)
def test_they_reach_the_export(tmp_path, capsys, options, message):
    command = ["deploy", "fashion_resnet20", "--calib-data", "fashion_calib", "--eval-data", "fashion_test"]
    assert run([*command, "--out", str(tmp_path / "out"), *options]) in (2, 4)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
