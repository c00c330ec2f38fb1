import pytest

from resnetrt import errors
from resnetrt.errors import ResnetrtError, UsageError


def subclasses(root: type) -> list[type]:
    """Those of the same module: what other tests have imported is not asked."""
    children = [child for child in root.__subclasses__() if child.__module__ == root.__module__]
    return [root, *(leaf for child in children for leaf in subclasses(child))]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.CheckFailed, 1),
        (errors.UsageError, 2),
        (errors.Inconclusive, 3),
        (errors.EnvironmentFault, 4),
        (errors.DataError, 4),
        (errors.WeightsError, 4),
        (errors.BundleError, 4),
        (errors.BackendRefused, 4),
        (errors.BackendMissing, 4),
    ],
)
def test_exit_codes_of_the_design(error: type[ResnetrtError], code: int):
    assert error("x").exit_code == code


@pytest.mark.parametrize("error", subclasses(ResnetrtError))
def test_every_message_is_one_line(error: type[ResnetrtError]):
    assert str(error("a\n  b\tc\r\n")) == "a b c"


def test_every_error_is_drawn_in_the_tree():
    assert errors.__doc__ is not None
    ours = [cls for cls in subclasses(ResnetrtError) if cls.__module__ == errors.__name__]
    assert len(ours) == 11
    for cls in ours:
        assert cls.__name__ in errors.__doc__


def test_unknown_suggests_the_nearest_names():
    error = UsageError.unknown("model", "resnet5", ["resnet50", "resnet18", "vgg"])
    assert str(error) == "unknown model 'resnet5'; did you mean resnet50 or resnet18?"


def test_unknown_lists_the_names_when_none_is_near():
    assert str(UsageError.unknown("model", "zzz", ["b", "a"])) == "unknown model 'zzz'; known: a, b"
    assert str(UsageError.unknown("engine", "zzz", [])) == "unknown engine 'zzz'; known: none"
