"""Notes on customers. Runs inside the sandbox, where bridgehold_sdk is there without being installed."""

import json
import urllib.request

from bridgehold_sdk import Bridge, Store, operation


class Desk(Bridge):
    name = "desk"
    version = "1.0.0"

    def open(self, session):
        self.notes = Store("note")

    @operation(effect="create", resource="note", id_field="id")
    def add_note(self, text, id=None):
        return {"note_id": self.notes.add(text, id)}

    @operation(effect="read", resource="note", id_field="note_id", stream=True)
    def read_aloud(self, note_id):
        words = self.notes.get(note_id).split()  # an unknown id ends the command as `not_found`
        for number, word in enumerate(words, 1):
            self.progress(number, len(words))
            yield word  # a chunk
        return {"words": len(words)}  # the result

    @operation(effect="run")
    def greet(self, name):
        customer = self.tools["lookup"](name=name)  # runs in the caller's process
        return f"Hello {name}, with us since {customer['since']}"

    @operation(effect="run", resource="note", id_field="note_id")
    def summarise(self, note_id):
        base_url, placeholder, _ = self.provider("openai")  # the gateway, and nothing worth stealing
        messages = [{"role": "user", "content": "In one sentence: " + self.notes.get(note_id)}]
        request = urllib.request.Request(
            base_url + "/chat/completions",
            data=json.dumps({"model": "gpt-4o-mini", "messages": messages}).encode(),
            headers={"Authorization": f"Bearer {placeholder}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["choices"][0]["message"]["content"]
