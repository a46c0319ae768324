"""Chunks and progress while a command runs.

Prints:

    Ada
    likes
    tea
    3 words of 3
"""

from bridgehold import SyncClient

with SyncClient.open() as host, host.session("desk") as session:
    note = session.run("add_note", {"text": "Ada likes tea"})["note_id"]
    total = 0
    for event in session.stream("read_aloud", {"note_id": note}):
        if event["type"] == "progress":
            total = event["total"]  # at most 20 such events a second: the last ones may be left out
        elif event["type"] == "chunk":
            print(event["data"])
        elif event["type"] == "result":
            print(f"{event['value']['words']} words of {total}")
