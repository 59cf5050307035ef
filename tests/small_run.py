"""A whole run of seconds, made by the commands; instead of finite elements fields are made up."""

from pathlib import Path

import synthetic
from crumple import cli, designs
from crumple.config import Config
from crumple.library import MODELS, packaged
from crumple.published import export_published, import_published
from crumple.readers import read_npz

TARGETS = Path(__file__).parents[1] / "workflow/targets/paper.csv"


def make_run(
    run: Path, config: Config, imported: bool = False, packaged_models: bool = False
) -> Path:
    """All stages of a run but for the finite elements, in whose place made-up fields stand.

    With ``imported``, the data are such ones in the published layout. With ``packaged_models``,
    the designs come from the models of the package.
    """
    crumple = _commands(run, config)
    manifest, model, library = run / "data/dataset.json", run / "model", run / "data/library.npz"
    if imported:
        layout, folder = run.with_name("lagrangian"), run.with_name("ours")
        export_published(synthetic.write_dataset(folder, 12, 6, config), layout, 1)
        import_published(layout, run / "data/shards", 1)
    else:
        for number in range(2):
            path = run / f"data/designs/{number:04d}.npz"
            crumple("sample", path, "--shard", number)
            synthetic_shard(path, run / "data", config)
    crumple("index", manifest, "--shards", *sorted((run / "data/shards").iterdir()))
    crumple("train", model, "--dataset", manifest)
    models = ["--model", model]
    if not imported and not packaged_models:
        designer, response = run / "designer", run / "response"
        crumple("library", library, manifest)
        crumple("train-designer", designer, "--library", library)
        crumple("train-response", response, "--library", library)
        models += ["--designer", designer, "--response", response]
    return _loop(run, config, manifest, models)


def make_package_run(run: Path, config: Config) -> Path:
    """All stages of a run with library and models of the package, but for the finite elements."""
    run.mkdir()
    models = [word for name in MODELS for word in (f"--{name}", packaged(name))]
    return _loop(run, config, packaged("library.npz"), models)


def _commands(run: Path, config: Config):
    """Return what calls a stage with its settings, its result and further arguments."""
    settings = run.with_suffix(".yaml")
    settings.write_text(config.model_dump_json())

    def crumple(stage, out, *arguments):
        config = [] if stage == "library" else ["--config", settings]
        command = [stage, *config, "--out", out, *arguments]
        assert cli.main([str(argument) for argument in command]) == 0

    return crumple


def _loop(run: Path, config: Config, known: Path, models: list) -> Path:
    """From the targets to the report."""
    crumple = _commands(run, config)
    drawn, verified = run / "verified/designs/0000.npz", run / "verified/shards/0000.zarr"
    held_out, evaluated, generated = (
        run / name for name in ("held_out.csv", "evaluation", "generated.zarr")
    )
    crumple("targets", held_out, "--dataset", known)
    crumple("generate", generated, *models, "--targets", TARGETS, held_out)
    crumple("extract", drawn, generated)
    synthetic_shard(drawn, run / "verified", config)
    parts = ["--dataset", known, "--generated", generated]
    parts += ["--designs", drawn, "--shards", verified]
    crumple("evaluate", evaluated, *parts)
    crumple("report", run / "report.html", *parts, *models, "--evaluation", evaluated)
    return run


def synthetic_shard(path: Path, part: Path, config: Config) -> None:
    known = read_npz(path, designs.DESIGNS)
    stress = synthetic.curve(0.5, 0.3, synthetic.FRAME_STRAIN) * (1 + known["index"][:, None])
    out = part / "shards" / f"{path.stem}.zarr"
    status = ["ok"] * len(stress)
    synthetic.write_shard(out, known["quarter"], stress, status, known["index"], config=config)


def make(
    settings: Config, folder: Path, imported: bool = False, packaged_models: bool = False, **more
) -> Path:
    values = settings.model_dump() | {"designs": {"count": 12, "shard_size": 6}} | more
    values |= {"evaluation": {"held_out": 1, "verify": 1}}
    if imported:
        values["generation"] |= {"method": "joint"}
        values["training"] |= {"known_design": 0.0}
    return make_run(folder, Config.model_validate(values), imported, packaged_models)
