"""That TensorBoard reads the event files of a run, whole and cut off: python tests/goldens/events.py runs/NAME, with tensorboard
2.21. It needs nothing but the files, and prints what is in them."""

import pathlib
import shutil
import sys
import tempfile

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


folder = pathlib.Path(sys.argv[1])
events = read(folder)
tags = events.Tags()
for tag in tags["scalars"]:
    print(tag, [(event.step, event.value) for event in events.Scalars(tag)])
for tag in tags["images"]:
    for event in events.Images(tag):
        print(tag, event.step, event.height, event.width, event.encoded_image_string[:4])
for tag in tags["tensors"]:
    print(tag, events.Tensors(tag)[0].tensor_proto.string_val[0][:60])
assert "loss_d" in tags["scalars"] and "samples" in tags["images"] and "settings" in tags["tensors"]

# Cut off anywhere, what is before the cut is still read.
[file] = folder.glob("events.out.tfevents.*")
whole = file.read_bytes()
before = 0
with tempfile.TemporaryDirectory() as place:
    for end in range(0, len(whole), max(1, len(whole) // 40)):
        cut = pathlib.Path(place) / str(end)
        cut.mkdir()
        (cut / file.name).write_bytes(whole[:end])
        tags = read(cut).Tags()
        count = len(tags["scalars"]) + len(tags["images"]) + len(tags["tensors"])
        assert count >= before
        before = count
        shutil.rmtree(cut)
print("read whole, and cut off at 40 places")
