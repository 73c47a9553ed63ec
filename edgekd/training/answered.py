"""The kept answers of a teacher that only answers, in the form that a network's outputs are kept in."""

from __future__ import annotations

from pathlib import Path

from edgekd.core.protocols import Progress
from edgekd.data import answers
from edgekd.data.splits import Splits
from edgekd.plan.plan import Plan
from edgekd.store.shards import Writer
from edgekd.training.teacher_outputs import LOGITS, MOST_LOGITS, ROLES, SHARD_ROWS, TRAINED_ON, largest


def write(plan: Plan, splits: Splits, work: Path, progress: Progress) -> None:
    """Write the logarithms of the answers' probabilities into `work`: a folder of shards for each role.

    A changed copy of a row has no answer of its own: it has its label's probabilities, as a row that a person
    labelled. Raises TeacherError where the folder of answers is damaged.
    """
    import torch

    known = answers.read(Path(plan.teacher.folder))
    progress.stage("teach: the teacher's kept answers", sum(len(getattr(splits, role)) for role in ROLES))
    done = 0
    for role in ROLES:
        writer = Writer(work / LOGITS / role, SHARD_ROWS)
        sparse = role in TRAINED_ON and not known.several and len(known.classes) > MOST_LOGITS
        for row in getattr(splits, role)[writer.done :]:
            logits = torch.from_numpy(known.logits(row.input, row.label))
            named = largest(logits[None]) if sparse else {LOGITS: logits[None]}
            writer.append(
                {
                    name: (value.half() if value.is_floating_point() else value.int()).numpy()[0]
                    for name, value in named.items()
                }
            )
        writer.close()
        done += len(getattr(splits, role))
        progress.step(done)
