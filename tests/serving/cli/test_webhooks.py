"""`sosie webhooks`: made, changed and ended by command, and what `sosie doctor` says of them."""

from typing import Any


def test_a_webhook_by_command(sosie, home) -> None:
    def run(*words: str) -> Any:
        return sosie("webhooks", *words, "--home", home, "--json")

    made = run("create", "https://systems.example/sosie", "--type", "line.opened").json
    webhook_id, secret = made["webhook"]["webhook_id"], made["secret"]
    assert secret.startswith("whsec_")
    assert [one["webhook_id"] for one in run("list").json["webhooks"]] == [webhook_id]
    changed = run("change", webhook_id, "--state", "paused", "--all-types").json
    assert (changed["state"], changed["types"]) == ("paused", [])
    assert run("rotate", webhook_id).json["secret"] != secret
    assert run("replay", webhook_id, "--after", "0").json["waiting"] >= 0
    assert run("dead-letters", webhook_id).json == {"dead_letters": [], "next": None}
    assert run("test", webhook_id, "--type", "line.opened").code == 1
    assert run("retry", webhook_id).json == {"count": 0}
    check = sosie("doctor", "--home", home, "--json").check("webhooks")
    assert (check["state"], check["detail"][:18]) == ("ok", "0 of 1 are active;")
    assert "secret" not in run("show", webhook_id).out.replace("earlier_secret_until", "")
    assert run("remove", webhook_id).code == 0
    assert run("show", webhook_id).code == 2
    refused = run("create", "https://10.0.0.1/")
    assert refused.code == 2
    assert "give a public address" in refused.out
