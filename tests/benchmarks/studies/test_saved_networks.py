"""The first networks of `--seed 0` end well; in a file of their own, since they take minutes."""

import json
from pathlib import Path

import pytest

from resnetrt.benchmarks.studies.network_fuzz.campaign import CampaignRequest, run_campaign

NETWORKS = 200


@pytest.mark.slow
def test_networks_nobody_wrote_end_well(tmp_path: Path):
    campaign = run_campaign(CampaignRequest(networks=NETWORKS, seed=0, out=tmp_path, shrunk=1))
    assert len(campaign.verdicts) + len(campaign.unbuildable) == NETWORKS
    assert len(campaign.unbuildable) <= NETWORKS // 10
    assert campaign.classes == {}, json.dumps(campaign.to_json(), indent=2)
