"""What a small computer says of itself is read from its files, and what it does not say is unknown."""

from pathlib import Path

import pytest
from planted_boards import ORIN, PI, THOR, plant

from resnetrt.board import Board, cuda_toolkit, package_version, read_board
from resnetrt.interpreter import Interpreter, find_system_package, hidden, read_interpreter
from resnetrt.thermals import Clock, read_thermals

ORIN_MODEL = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"


def test_a_jetson_with_its_packages(tmp_path: Path):
    assert read_board(plant(tmp_path, ORIN)) == Board(ORIN_MODEL, "36.4.7", "6.2.1+b38", "MAXN_SUPER (mode 2)")


def test_without_the_package_jetpack_is_the_major_and_the_mode_is_that_of_the_start(tmp_path: Path):
    assert read_board(plant(tmp_path, THOR)) == Board(
        "NVIDIA Jetson AGX Thor Developer Kit", "38.2.2", "7", "120W (mode 1)"
    )


def test_an_l4t_of_the_future_is_not_guessed(tmp_path: Path):
    release = {"etc/nv_tegra_release": "# R52 (release), REVISION: 1.0, GCID: 1\n"}
    assert read_board(plant(tmp_path, release)) == Board("Jetson", "52.1.0", None, None)


def test_a_raspberry_pi_has_neither(tmp_path: Path):
    assert read_board(plant(tmp_path, PI)) == Board("Raspberry Pi 5 Model B Rev 1.0")


def test_a_pc_is_no_board(tmp_path: Path):
    assert read_board(tmp_path) is None


@pytest.mark.parametrize(
    ("status", "mode"), [("pmode:0000 fmode:quiet", "15W (mode 0)"), ("pmode:0009", "mode 9"), ("", "25W (mode 1)")]
)
def test_the_power_mode_is_named_by_its_number(tmp_path: Path, status: str, mode: str):
    board = read_board(plant(tmp_path, ORIN | {"var/lib/nvpmodel/status": status}))
    assert board is not None
    assert board.power_mode == mode


def test_a_removed_package_has_no_version(tmp_path: Path):
    removed = {"var/lib/dpkg/status": "Package: a\nStatus: deinstall ok config-files\nVersion: 1\n"}
    assert package_version("a", plant(tmp_path, removed)) is None


def test_the_cuda_of_the_system(tmp_path: Path):
    assert cuda_toolkit(tmp_path) is None
    assert cuda_toolkit(plant(tmp_path, ORIN)) == "12.6.11"


class TestThermals:
    def test_zones_and_clocks_of_a_jetson(self, tmp_path: Path):
        thermals = read_thermals(plant(tmp_path, ORIN))
        assert thermals.temperatures_c == {"cpu-thermal": 48.312, "gpu-thermal": 46.5}
        assert thermals.clocks == {
            "cpu": Clock(1228.8, 729.6, 1728.0, "schedutil"),
            "17000000.gpu": Clock(1020.0, 1020.0, 1020.0, "nvhost_podgov"),
        }
        assert [clock.locked for clock in thermals.clocks.values()] == [False, True]

    def test_a_running_fan_is_no_throttling(self, tmp_path: Path):
        assert read_thermals(plant(tmp_path, ORIN)).throttled_by == ()

    @pytest.mark.parametrize(("name", "slows"), [("gpu-throttle-alert", True), ("cpufreq-cpu0", True), ("fan", False)])
    def test_what_slows_the_hardware_is_named(self, tmp_path: Path, name: str, slows: bool):
        alert = {"sys/class/thermal/cooling_device2/type": name, "sys/class/thermal/cooling_device2/cur_state": "1"}
        assert read_thermals(plant(tmp_path, ORIN | alert)).throttled_by == ((name,) if slows else ())

    def test_a_weak_power_supply_of_a_raspberry_pi(self, tmp_path: Path):
        assert read_thermals(plant(tmp_path, PI)).throttled_by == ("under-voltage",)

    def test_a_machine_that_says_nothing(self, tmp_path: Path):
        thermals = read_thermals(tmp_path)
        assert (thermals.temperatures_c, thermals.clocks, thermals.throttled_by) == ({}, {}, None)


class TestSystemPackage:
    VENV = Interpreter("3.10.12", "/home/user/resnetrt/.venv", True, False)

    def test_the_version_comes_from_the_debian_package(self, tmp_path: Path):
        package = find_system_package("tensorrt", plant(tmp_path, ORIN), "python3-libnvinfer")
        assert package is not None
        assert (package.version, package.python) == ("10.3.0.30-1+cuda12.5", "3.10")
        assert package.folder == str(tmp_path / "usr/lib/python3.10/dist-packages")

    def test_a_dist_info_tells_more_exactly(self, tmp_path: Path):
        folder = "usr/local/lib/python3.12/dist-packages"
        files = {f"{folder}/tensorrt/__init__.py": "", f"{folder}/tensorrt-10.11.0.33.dist-info/METADATA": ""}
        package = find_system_package("tensorrt", plant(tmp_path, files))
        assert package is not None
        assert (package.version, package.python) == ("10.11.0.33", "3.12")

    def test_it_is_hidden_from_a_venv(self, tmp_path: Path):
        package = find_system_package("tensorrt", plant(tmp_path, ORIN))
        assert package is not None
        what, fix = hidden(package, self.VENV) or ("", "")
        assert what.endswith("is hidden from this venv, /home/user/resnetrt/.venv")
        assert fix == "python3.10 -m venv --system-site-packages /home/user/resnetrt/.venv"

    def test_another_python_does_not_see_it_either(self, tmp_path: Path):
        package = find_system_package("tensorrt", plant(tmp_path, ORIN))
        assert package is not None
        what, fix = hidden(package, Interpreter("3.11.7", "/v", True, True)) or ("", "")
        assert what.endswith("is for Python 3.10, this is Python 3.11")
        assert "PYTHON=python3.10 VENV_FLAGS=--system-site-packages" in fix

    def test_a_venv_that_sees_it_needs_nothing(self, tmp_path: Path):
        package = find_system_package("tensorrt", plant(tmp_path, ORIN))
        assert package is not None
        assert hidden(package, Interpreter("3.10.12", "/v", True, True)) is None

    def test_nothing_there(self, tmp_path: Path):
        assert find_system_package("tensorrt", tmp_path) is None

    def test_a_venv_is_told_by_its_own_file(self, tmp_path: Path):
        assert not read_interpreter(tmp_path).venv
        for value, sees in (("false", False), ("true", True)):
            (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = {value}\n")
            interpreter = read_interpreter(tmp_path)
            assert (interpreter.venv, interpreter.system_packages) == (True, sees)
