#!/usr/bin/env python3
"""Writes the demo's examples: a request to a house and the one JSON command that it means.

    tools/make_commands.py examples/commands        train.jsonl (400 rows) and test.jsonl (60 others)

The same rows every time. Rows are prompt and completion as SmolLM2's chat has them, without a system message.
"""
import json
import pathlib
import random
import sys

ROOMS = ["kitchen", "bedroom", "living room", "bathroom", "office", "garage", "hallway", "attic", "cellar"]

# device, action (None: the word said), values (None: there is none), what people say
REQUESTS = [
    ("light", "set", range(5, 101), [
        "Dim the {room} lights to {value} percent",
        "Bring the {room} lamp to {value}%",
        "I would like {value} percent light in the {room}",
        "Can the lights in the {room} go to {value}%?",
    ]),
    ("light", ["on", "off"], None, [
        "Turn {word} the {room} lights",
        "Lights {word} in the {room}, please",
        "Switch the {room} lamp {word}",
    ]),
    ("thermostat", "set", range(15, 29), [
        "Make it {value} degrees in the {room}",
        "Heat the {room} to {value}",
        "Set the {room} thermostat to {value} degrees",
    ]),
    ("blinds", ["open", "close"], None, [
        "{Word} the blinds in the {room}",
        "Would you {word} the {room} blinds?",
        "Please {word} the shades of the {room}",
    ]),
    ("door", ["lock", "unlock"], None, [
        "{Word} the {room} door",
        "See to it that the {room} door gets {word}ed",
        "Could you {word} the door to the {room}?",
    ]),
    ("speaker", "volume", range(1, 11), [
        "Set the {room} speaker to volume {value}",
        "Music in the {room} at {value} of ten",
    ]),
]


def request(pick):
    device, action, values, sayings = pick.choice(REQUESTS)
    room = pick.choice(ROOMS)
    word = action if isinstance(action, str) else pick.choice(action)
    command = {"device": device, "room": room, "action": word}
    if values is not None:
        command["value"] = pick.choice(values)
    said = pick.choice(sayings).format(room=room, value=command.get("value"), word=word, Word=word.title())
    return said, json.dumps(command)


def main(folder):
    pick, rows = random.Random(2026), {}
    while len(rows) < 460:
        said, command = request(pick)
        rows.setdefault(said, command)
    rows = [{"prompt": f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n", "completion": command}
            for said, command in rows.items()]
    for name, part in (("train", rows[:400]), ("test", rows[400:])):
        with open(pathlib.Path(folder) / f"{name}.jsonl", "w", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in part)


if __name__ == "__main__":
    main(sys.argv[1])
