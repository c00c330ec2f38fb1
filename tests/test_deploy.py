"""What lies in deploy/ is well-formed and speaks of things that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from source_tree import ROOT, package_dirs, read_setup_cfg

from resnetrt.runtime.shadow import METRIC_NAMES

DEPLOY = ROOT / "deploy"
IMAGES = ("Containerfile", "Containerfile.gpu")
EXPOSED = re.compile(r'"((?:nv|resnetrt)_[a-z_]+)"')


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def metrics_of(expression: str) -> set[str]:
    """Names of metrics; a histogram's series end in `_bucket`, `_sum` or `_count`."""
    names = set(re.findall(r"\b(?:nv|resnetrt)_[a-z_]+", expression))
    return {re.sub(r"(_seconds)_(bucket|sum|count)$", r"\1", name) for name in names}


def known_metrics() -> set[str]:
    served = (ROOT / "runtime" / "serving" / "metrics.py").read_text()
    return set(EXPOSED.findall(served)) | set(METRIC_NAMES)


def test_every_metric_of_the_dashboard_is_one_that_we_expose():
    shown = set().union(*map(metrics_of, expressions()))
    assert shown - known_metrics() == set()
    assert {"nv_inference_count", "resnetrt_request_duration_seconds", "resnetrt_shadow_alarm"} <= shown


def test_a_metric_that_does_not_exist_is_seen():
    assert metrics_of("rate(resnetrt_no_such_total[5m])") - known_metrics() == {"resnetrt_no_such_total"}


def test_panels_have_their_own_numbers_and_do_not_overlap():
    panels = json.loads((DEPLOY / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_the_unit_is_valid(tmp_path: Path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    text = (DEPLOY / "resnetrt.service").read_text()
    assert text.count("/opt/resnetrt/bin/resnetrt") == 1
    (tmp_path / "resnetrt.service").write_text(text.replace("/opt/resnetrt/bin/resnetrt", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "resnetrt.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_does_not_try_again_where_it_is_of_no_use_and_leaves_time_to_drain():
    from resnetrt.cli.serve import command
    from resnetrt.errors import EnvironmentFault, UsageError

    text = (DEPLOY / "resnetrt.service").read_text()
    assert f"RestartPreventExitStatus={UsageError.exit_code} {EnvironmentFault.exit_code}\n" in text
    drain = next(option.default for option in command.params if option.name == "exit_timeout_secs")
    assert float(re.search(r"TimeoutStopSec=(\d+)", text)[1]) > drain


def test_the_options_of_the_files_exist():
    from resnetrt.cli.serve import command

    known = {name for option in command.params for name in option.opts}
    for name in ("serve.env", *IMAGES):
        text = (DEPLOY / name).read_text()
        used = re.findall(r"--[a-z-]+", text if name == "serve.env" else text[text.index("ENTRYPOINT") :])
        assert used
        assert set(used) <= known, name


@pytest.mark.parametrize("name", IMAGES)
def test_the_image_gets_every_folder_of_the_package(name: str):
    text = (DEPLOY / name).read_text()
    copied = {word for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE) for word in line.split()}
    assert {path.name for path in package_dirs().values()} <= copied
    assert all((ROOT / word).exists() for word in copied)


def pins(text: str) -> tuple[set[str], set[str], list[str]]:
    """Base images, the majors of CUDA in their tags, and the extras that are installed."""
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    cuda = {match[1] for base in bases if (match := re.search(r"/cuda:(\d+)\.", base))}
    return bases, cuda, re.findall(r'"/src\[([a-z0-9,-]+)\]"', text)


def disagreements(text: str) -> list[str]:
    """What in a container recipe does not fit together."""
    bases, cuda, installed = pins(text)
    extras = {extra for group in installed for extra in group.split(",")}
    wanted = {match[1] for extra in extras if (match := re.fullmatch(r"gpu-cu(\d+)", extra))}
    faults = [f"{extra} installs the newest CUDA, whatever the image's" for extra in extras & {"gpu"}]
    faults += [f"the image has CUDA {sorted(cuda)}, the packages {sorted(wanted)}"] if cuda != wanted else []
    return faults + ([f"the venv of one image is copied to another: {sorted(bases)}"] if len(bases) != 1 else [])


@pytest.mark.parametrize("name", IMAGES)
def test_the_packages_fit_the_base_image(name: str):
    text = (DEPLOY / name).read_text()
    assert disagreements(text) == []
    known = set(read_setup_cfg()["options.extras_require"])
    assert {extra for group in pins(text)[2] for extra in group.split(",")} <= known


@pytest.mark.parametrize(("old", "new"), [("cuda:12", "cuda:13"), ("gpu-cu12", "gpu-cu13"), ("gpu-cu12", "gpu")])
def test_a_planted_disagreement_is_found(old: str, new: str):
    assert disagreements((DEPLOY / "Containerfile.gpu").read_text().replace(old, new)) != []


def test_the_proxy_configurations_are_valid(tmp_path: Path):
    yaml = pytest.importorskip("yaml", reason="PyYAML")
    envoy = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())["static_resources"]
    names = {cluster["name"] for cluster in envoy["clusters"]}
    assert set(re.findall(r"route: \{cluster: (\w+)", (DEPLOY / "envoy.yaml").read_text())) == names
    if shutil.which("nginx") is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl is not here")
    key = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "1"]
    files = ["-keyout", str(tmp_path / "resnetrt.key"), "-out", str(tmp_path / "resnetrt.crt")]
    subprocess.run([*key, *files], check=True, capture_output=True)
    (tmp_path / "resnetrt.htpasswd").touch()
    text = (DEPLOY / "nginx.conf").read_text().replace("/etc/nginx/", f"{tmp_path}/")
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\n{text}")
    done = subprocess.run(
        ["nginx", "-t", "-c", str(tmp_path / "nginx.conf")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
