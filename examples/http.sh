#!/usr/bin/env bash
# The same over HTTP, with curl. URL: the host's address, http://127.0.0.1:8765; TOKEN: a principal's.
#
# Prints:
#
#     42
#     Ada
#     likes
#     tea
set -euo pipefail
ask() { curl -sf -w "\n" -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" "$@"; }

ask "$URL/v1/run" -d '{"operation": "python:execute", "arguments": {"code": "6 * 7"}}' |
  sed -n 's/.*"value":\([0-9]*\).*/\1/p'

session=$(ask "$URL/v1/sessions" -d '{"bridge": "desk"}' | sed 's/.*"id":"\([^"]*\)".*/\1/')
ask "$URL/v1/sessions/$session/commands" \
  -d '{"operation": "add_note", "arguments": {"text": "Ada likes tea", "id": "ada"}}' >/dev/null
ask -N -H "Accept: text/event-stream" "$URL/v1/sessions/$session/commands" \
  -d '{"operation": "read_aloud", "arguments": {"note_id": "ada"}}' |
  sed -n '/^event: chunk/,/^$/s/^data: .*"data":"\([^"]*\)".*/\1/p'
ask -X DELETE "$URL/v1/sessions/$session" >/dev/null
