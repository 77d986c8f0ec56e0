"""Run as a process by test_kill.py: the fake pipeline in the store given; prints the stages that ran and the result."""

import hashlib
import json
import sys
from pathlib import Path

from engine.runs.run import Run
from engine.runs.store import Store
from tests.fake_stages import CALLS, FakeModels, pipeline

run = Run(Store(Path(sys.argv[1])), FakeModels(), device="cpu", checkpoint_seconds=0.0)
result = run.execute(pipeline(run))
print(json.dumps({"calls": CALLS, "result": hashlib.sha256(result.image.tobytes()).hexdigest(),
                  "keys": [o.accepted.key for o in run.outcomes.values()]}))
