"""Copies the queue's depth from the API's metrics to Cloud Monitoring, as custom.googleapis.com/swnube/queue_depth.

The standard library alone: it runs on the sweeper's machine, once per call, as its service account.
"""

import json
import os
import sys
from datetime import UTC, datetime
from urllib.request import Request, urlopen

METRIC = "custom.googleapis.com/swnube/queue_depth"


def depth(exposition: str) -> int:
    """Return the value of swnube_queue_depth in Prometheus text; raise ValueError when it is not there."""
    for line in exposition.splitlines():
        if line.startswith("swnube_queue_depth "):
            return int(float(line.split()[1]))
    raise ValueError("the API's metrics have no swnube_queue_depth")


def time_series(project: str, value: int, now: datetime) -> dict[str, object]:
    """Return the body of projects.timeSeries.create for one value now."""
    return {
        "timeSeries": [
            {
                "metric": {"type": METRIC},
                "resource": {"type": "global", "labels": {"project_id": project}},
                "metricKind": "GAUGE",
                "valueType": "INT64",
                "points": [{"interval": {"endTime": now.isoformat()}, "value": {"int64Value": str(value)}}],
            }
        ]
    }


def main() -> None:
    metadata = f"http://{os.environ.get('GCE_METADATA_HOST', 'metadata.google.internal')}/computeMetadata/v1/"
    monitoring = os.environ.get(
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING", "https://monitoring.googleapis.com/"
    ).rstrip("/")

    def ask(path: str) -> str:
        with urlopen(Request(metadata + path, headers={"Metadata-Flavor": "Google"}), timeout=5) as answer:  # noqa: S310
            return str(answer.read().decode())

    api = os.environ.get("API_URL") or f"http://{os.environ['API_INSTANCE_IP']}:5000"
    with urlopen(f"{api}/metrics", timeout=5) as answer:  # noqa: S310 - the operator's own address
        value = depth(answer.read().decode())
    project = ask("project/project-id")
    token = json.loads(ask("instance/service-accounts/default/token"))["access_token"]
    body = json.dumps(time_series(project, value, datetime.now(UTC))).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urlopen(Request(f"{monitoring}/v3/projects/{project}/timeSeries", body, headers), timeout=5):  # noqa: S310
        pass
    json.dump({"event": "queue_depth.written", "level": "info", "tier": "sweeper", "depth": value}, sys.stderr)
    sys.stderr.write("\n")


if __name__ == "__main__":
    main()
