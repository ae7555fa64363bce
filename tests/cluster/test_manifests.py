import json
from pathlib import Path

import jsonschema
import ray
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"


def test_the_cluster_file_follows_rays_schema() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text()), schema)


def test_the_rayjob_pins_the_ray_of_the_project() -> None:
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    assert job["kind"] == "RayJob"
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__
    assert f"rayproject/ray:{ray.__version__}-" in (CLUSTER / "Dockerfile").read_text()


def test_constraints_hold_versions_and_nothing_else() -> None:
    lines = (CLUSTER / "constraints.txt").read_text().splitlines()
    assert all("==" in line and "/" not in line for line in lines if line and not line.startswith("#"))


def test_the_image_holds_the_files_that_the_rayjob_names() -> None:
    place = "/opt/agenttuning/"
    entrypoint = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())["spec"]["entrypoint"].split()
    named = [word.removeprefix(place) for word in entrypoint if word.endswith((".py", ".yaml"))]
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    assert f"WORKDIR {place.rstrip('/')}" in lines
    copied = [line.split()[1:] for line in lines if line.startswith("COPY ")]
    assert len(named) == 2
    for name in named:
        assert (CLUSTER.parent / name).is_file()
        folder = name.partition("/")[0]
        assert [folder, folder] in copied
