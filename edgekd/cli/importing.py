"""`edgekd import`: a model of another format as a Hugging Face folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from shlex import quote

import click

from edgekd.cli.printing import echo, print_json
from edgekd.core.errors import UsageError


@click.command(name="import")
@click.argument("form", metavar="FORMAT", type=click.Choice(["ct2"]))
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def import_(form: str, file: Path, folder: Path, as_json: bool) -> None:
    """Write a model of another FORMAT as a Hugging Face folder.

    ct2: FILE is the model.bin of a Whisper model in CTranslate2's format (faster-whisper), with its tokenizer.json
    and config.json beside it. FOLDER must be new or empty.
    """
    from edgekd.core.files import user_path, writing
    from edgekd.importing import ct2, whisper

    file, folder = user_path(file), user_path(folder)
    file = file / "model.bin" if file.is_dir() else file
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} is not a new or an empty folder", fix="give another FOLDER, or remove this one")
    model = ct2.read(file)
    with writing(folder) as fresh:
        made = whisper.write(model, file.parent, fresh)
    if as_json:
        print_json({"folder": str(folder), "format": form, **asdict(made)})
        return
    echo(
        f"{made.model_type}: {made.parameters:,} parameters, {made.encoder_layers} + {made.decoder_layers} layers, "
        f"{made.languages} language{'' if made.languages == 1 else 's'}\n"
        f"written to {quote(str(folder))}, as transformers, optimum and onnx-asr read it"
    )
