"""What a whole run leaves in logs and metrics: who did what, and none of what would let another do it."""

import base64
import json

import requests

from tests.client import PASSWORD, Client, tone
from tests.services import wait_for
from tests.stack import Stack

MARK = "c0ntent-of-a-file-that-is-nobodys-business"


def test_logs_and_metrics_of_a_whole_run_hold_no_secret() -> None:
    """Accounts, log-ins good and bad, cookies, replays, uploads, conversions, downloads: nothing of it can be replayed.

    Even at the level DEBUG, in every process, and in what /metrics shows.
    """
    secrets: dict[str, str] = {"password": PASSWORD, "wrong password": "Wr0ng-but-close-77", "file": MARK}
    with Stack(web=1, workers=1, database="postgres", environment={"LOG_LEVEL": "DEBUG"}) as stack:
        url = stack.web[0].url
        ana = Client(url).signup().login()
        secrets["signing key"] = stack.environment["JWT_SECRET_KEY"]
        secrets["access token"] = str(ana.session.headers["Authorization"]).removeprefix("Bearer ")
        secrets["refresh token"] = ana.refresh_token
        stack.workers[0].kill()
        task = ana.upload(tone(0.2) + MARK.encode(), "a.wav", "flac")
        raw = wait_for(lambda: stack.redis.client.lindex("conversions", 0), "the job is on the queue")
        job = json.loads(base64.b64decode(json.loads(raw)["body"]))[0][0]
        secrets["job token"] = job["token"]
        stack.workers[0].start()
        assert ana.wait(task["id"])["state"] == "PROCESSED"
        ana.original(task["id"])
        ana.converted(task["id"])
        ana.refresh()
        secrets["second refresh token"] = ana.refresh_token
        login = {"email": ana.email, "password": PASSWORD, "refreshIn": "cookie", "stay": True}
        browser = requests.Session()
        said = browser.post(f"{url}/api/auth/login", json=login, timeout=30)
        secrets["token beside the cookie"] = said.json()["token"]
        secrets["cookie"] = browser.cookies["swnube_refresh"]
        assert browser.post(f"{url}/api/auth/refresh", headers={"X-Refresh-In": "cookie"}, timeout=30).ok
        secrets["second cookie"] = browser.cookies["swnube_refresh"]
        replay = {"X-Refresh-In": "cookie", "Cookie": f"swnube_refresh={secrets['cookie']}"}
        assert requests.post(f"{url}/api/auth/refresh", headers=replay, timeout=30).status_code == 401
        bad = {"email": ana.email, "password": secrets["wrong password"]}
        assert requests.post(f"{url}/api/auth/login", json=bad, timeout=30).status_code == 401
        weak = {"user": "x", "email": "x@example.com", "password1": "qwertyuiop", "password2": "qwertyuiop"}
        assert "qwertyuiop" not in requests.post(f"{url}/api/auth/signup", json=weak, timeout=30).text
        bearer = {"Authorization": f"Bearer {secrets['access token']}x"}
        assert (
            requests.get(f"{url}/api/tasks?token={secrets['access token']}", headers=bearer, timeout=30).status_code
            == 401
        )
        ana.delete(task["id"])
        ana.logout()
        metrics = requests.get(f"{url}/metrics", timeout=30).text
        logs = {part.name: part.log_path.read_text(errors="replace") for part in stack.services}
    assert '"audit": true' in logs["web0"]
    for name, text in {**logs, "metrics": metrics}.items():
        found = [what for what, secret in secrets.items() if secret in text or secret[-40:] in text]
        assert found == [], f"{name} tells {found}"
        assert "X-Goog-Signature" not in text
