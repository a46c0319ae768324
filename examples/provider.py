"""A model's answer, by a key that the sandbox never has.

Prints (with the simulated provider):

    a summary: True
"""

from bridgehold import SyncClient

with SyncClient.open() as host, host.session("desk") as session:
    note = session.run("add_note", {"text": "Ada likes tea, and has been with us since 2019."})["note_id"]
    answer = session.run("summarise", {"note_id": note})
    print(f"a summary: {len(answer) > 0}")
