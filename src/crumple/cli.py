"""Command line: one subcommand per stage; the workflow's rules call these and nothing else.

To add a subcommand: write ``_add_NAME(commands)``, which declares its options and sets
``handler``, and list it in ``COMMANDS``. A handler imports its stage inside, so that training
never loads dolfinx and simulation never loads torch.
"""

from __future__ import annotations

import argparse
import errno
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from crumple.errors import UserError

if TYPE_CHECKING:
    from crumple.config import Config


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; a known failure prints one sentence and returns 1."""
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        args.handler(args)
    except UserError as error:
        return _failed(str(error))
    except OSError as error:
        if error.strerror is None:
            raise
        where = f": {error.filename}" if error.filename else ""
        advice = "; free some and run again" if error.errno == errno.ENOSPC else ""
        return _failed(f"{error.strerror}{where}{advice}")
    except KeyboardInterrupt:
        return _failed("stopped; run the same command again to continue")
    return 0


def _failed(sentence: str) -> int:
    print(f"crumple: error: {sentence}", file=sys.stderr)
    return 1


def _interrupt(signum, frame) -> None:
    """Turn SIGTERM into the exception of Ctrl-C, so that temporary files are cleaned up."""
    raise KeyboardInterrupt


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every subcommand."""
    parser = argparse.ArgumentParser(prog="crumple", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for add in COMMANDS:
        add(commands)
    return parser


def _stage(commands, name: str, help: str, handler) -> argparse.ArgumentParser:
    """Return the parser of a stage: a subcommand with ``--config`` and ``--out``."""
    parser = commands.add_parser(name, help=help, description=help)
    _add_settings(parser)
    parser.add_argument("--out", type=Path, required=True, help="where the result goes")
    parser.set_defaults(handler=handler)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE|JSON",
        help="YAML file (what it leaves out has its default) or JSON object (which holds all "
        "settings of a stage); may be repeated, later ones are laid over earlier ones",
    )


def _settings(args: argparse.Namespace) -> Config:
    """Return the configuration given; as JSON it must be complete for a stage of the workflow."""
    from crumple.config import STAGE_SECTIONS, load_config

    stage = args.command if args.command in STAGE_SECTIONS else None
    return load_config(*args.config, stage=stage)


def _add_config(commands) -> None:
    help = "print the default configuration with its comments, or its JSON schema, or check one"
    parser = commands.add_parser("config", help=help, description=help)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--check",
        nargs="+",
        metavar="FILE",
        help="only validate these files, each laid over the ones before it as by --configfile",
    )
    choice.add_argument("--schema", action="store_true", help="print the JSON schema for editors")
    parser.set_defaults(handler=_config)


def _config(args: argparse.Namespace) -> None:
    from crumple import config

    if args.check:
        config.load_config(*args.check)
        print(f"{' + '.join(args.check)}: ok")
    else:
        print(config.json_schema() if args.schema else config.default_yaml(), end="")


def _add_targets(commands) -> None:
    parser = _stage(commands, "targets", "make targets of held-out responses", _targets)
    parser.add_argument("--dataset", type=Path, required=True, help="dataset.json, or a library")


def _targets(args: argparse.Namespace) -> None:
    from crumple.evaluation import write_held_out_targets

    write_held_out_targets(args.dataset, _settings(args), args.out)


def _add_extract(commands) -> None:
    parser = _stage(commands, "extract", "choose the generated designs to verify", _extract)
    parser.add_argument("generated", type=Path, help="candidates of `crumple generate` (zarr)")
    parser.add_argument("--shard", type=int, default=0, help="number of the shard; default 0")


def _extract(args: argparse.Namespace) -> None:
    from crumple.candidates import extract

    extract(args.generated, _settings(args), args.shard, args.out)


def _add_evaluate(commands) -> None:
    help = "compare candidates and their simulations with targets and training set"
    parser = _stage(commands, "evaluate", help, _evaluate)
    _add_candidates(parser)


def _add_candidates(parser: argparse.ArgumentParser) -> None:
    """Declare the inputs that `evaluate` and `report` share."""
    help = "dataset.json, or the library (npz) that the models were trained on"
    parser.add_argument("--dataset", type=Path, required=True, help=help)
    parser.add_argument("--generated", type=Path, required=True, help="candidates (zarr)")
    parser.add_argument(
        "--designs", type=Path, nargs="+", required=True, help="files of `crumple extract`"
    )
    parser.add_argument(
        "--shards", type=Path, nargs="+", required=True, help="their simulations, in the same order"
    )


def _evaluate(args: argparse.Namespace) -> None:
    from crumple.evaluation import evaluate

    evaluate(args.generated, args.dataset, args.designs, args.shards, args.out)


def _add_check_goal(commands) -> None:
    help = "print what target curves and goals were understood as, and draw them"
    parser = commands.add_parser("check-goal", help=help, description=help)
    parser.add_argument("goals", type=Path, nargs="+", metavar="FILE", help="YAML or CSV")
    parser.add_argument("--picture", type=Path, metavar="OUT.png", help="picture to draw")
    parser.add_argument(
        "--dataset", type=Path, metavar="JSON", help="dataset.json of designs to compare with"
    )
    parser.set_defaults(handler=_check_goal)


def _check_goal(args: argparse.Namespace) -> None:
    from crumple.goal_check import check_goals

    check_goals(args.goals, args.picture, args.dataset)


def _add_sample(commands) -> None:
    parser = _stage(commands, "sample", "draw one shard of random designs", _sample)
    parser.add_argument("--shard", type=int, required=True, help="number of the shard, from 0")


def _sample(args: argparse.Namespace) -> None:
    from crumple.designs import sample_shard

    print(sample_shard(_settings(args), args.shard, args.out), file=sys.stderr)


def _add_mesh(commands) -> None:
    parser = _stage(commands, "mesh", "mesh one shard of designs with quadrilaterals", _mesh)
    parser.add_argument("--designs", type=Path, required=True, help="file of `crumple sample`")


def _mesh(args: argparse.Namespace) -> None:
    from crumple.meshing import mesh_shard

    mesh_shard(_settings(args), args.designs, args.out)


def _add_simulate(commands) -> None:
    parser = _stage(commands, "simulate", "compress one shard of meshed designs", _simulate)
    parser.add_argument("--meshes", type=Path, required=True, help="folder of `crumple mesh`")


def _simulate(args: argparse.Namespace) -> None:
    from crumple.simulation import simulate_shard

    simulate_shard(_settings(args), args.meshes, args.out)


def _add_simulate_one(commands) -> None:
    help = "compress one design of yours: curve, fields for ParaView, picture"
    parser = _stage(commands, "simulate-one", help, _simulate_one)
    parser.add_argument("design", type=Path, help="PNG or npz, 48x48 (a quarter) or 96x96, binary")


def _simulate_one(args: argparse.Namespace) -> None:
    from crumple.simulation import simulate_design

    simulate_design(_settings(args), args.design, args.out)


def _add_sensitivity(commands) -> None:
    help = "compress one design of yours with mesh, friction, platens, outline ... changed a little"
    parser = _stage(commands, "sensitivity", help, _sensitivity)
    parser.add_argument("design", type=Path, help="PNG or npz, 48x48 (a quarter) or 96x96, binary")
    parser.add_argument(
        "--targets", type=Path, nargs="+", default=[], help="goals to compare with, YAML or CSV"
    )


def _sensitivity(args: argparse.Namespace) -> None:
    from crumple.sensitivity import sensitivity

    sensitivity(_settings(args), args.design, args.targets, args.out)


def _add_export(commands) -> None:
    help = "write one design of yours as drawings, solids and input of other codes, in mm"
    parser = _stage(commands, "export", help, _export)
    parser.add_argument("design", type=Path, help="PNG or npz, 48x48 (a quarter) or 96x96, binary")
    parser.add_argument("--cell-size", required=True, metavar="MM", help="side of a cell")
    _add_block(parser)
    parser.add_argument(
        "--formats",
        default="svg,dxf,stl,inp",
        help="of svg, dxf, stl (extruded), inp (Abaqus, CalculiX), vtu (simulated states for "
        "ParaView); default svg,dxf,stl,inp",
    )


def _add_block(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--thickness", metavar="MM", help="by default the side of a cell")
    parser.add_argument(
        "--tiles", default="1x1", metavar="NxM", help="columns x rows of cells; default 1x1"
    )


def _export(args: argparse.Namespace) -> None:
    from crumple.exports import export_design, parse_formats, parse_tiles

    size = _millimetres("--cell-size", args.cell_size)
    thickness = _millimetres("--thickness", args.thickness) if args.thickness else size
    tiles, formats = parse_tiles(args.tiles), parse_formats(args.formats)
    export_design(_settings(args), args.design, args.out, size, thickness, tiles, formats)


def _millimetres(option: str, text: str) -> float:
    from crumple.quantities import as_millimetres

    try:
        return as_millimetres(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from error


def _add_verify(commands) -> None:
    help = "compare the solver with curves and displacements of another code"
    parser = commands.add_parser("verify", help=help, description=help)
    parser.add_argument("cases", type=Path, nargs="+", metavar="FILE.npz")
    parser.add_argument("--same-mesh", action="store_true", help="use the cells given in the file")
    parser.add_argument(
        "--reaction",
        choices=("end", "hht"),
        default="end",
        help="of files that don't say so: reported at the end of an increment (default), or "
        "weighted in time by the HHT integrator of Abaqus' implicit dynamics",
    )
    _add_settings(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures here")
    parser.set_defaults(handler=_verify)


def _verify(args: argparse.Namespace) -> None:
    from crumple.verification import verify

    verify(args.cases, _settings(args), args.same_mesh, args.json, args.reaction)


def _add_rasterise(commands) -> None:
    parser = _stage(commands, "rasterise", "turn simulations into pixel fields", _rasterise)
    parser.add_argument("--designs", type=Path, required=True, help="designs of the shard (npz)")
    parser.add_argument("--simulations", type=Path, required=True, help="their simulations")


def _rasterise(args: argparse.Namespace) -> None:
    from crumple.fields import rasterise

    rasterise(_settings(args), args.designs, args.simulations, args.out)


def _add_index(commands) -> None:
    help = "check and describe the shards that make a data set, and split it"
    parser = _stage(commands, "index", help, _index)
    help = "shards (zarr), or the folder that has all of the configuration as 0000.zarr ..."
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help=help)


def _index(args: argparse.Namespace) -> None:
    from crumple.dataset import shards_of, write_manifest

    config, shards = _settings(args), args.shards
    if len(shards) == 1 and shards[0].suffix != ".zarr":
        shards = shards_of(shards[0], config)
    write_manifest(shards, config, args.out)


def _add_inspect(commands) -> None:
    help = "print what a data set holds, check its files and draw a contact sheet"
    parser = commands.add_parser("inspect", help=help, description=help)
    parser.add_argument("dataset", type=Path, help="dataset.json")
    parser.add_argument("--sheet", type=Path, metavar="OUT.png", help="contact sheet to draw")
    parser.set_defaults(handler=_inspect)


def _inspect(args: argparse.Namespace) -> None:
    from crumple.inspection import inspect

    inspect(args.dataset, args.sheet)


def _add_crate(commands) -> None:
    help = "describe a run for publication: RO-Crate, and Croissant for its data set"
    parser = commands.add_parser("crate", help=help, description=help)
    parser.add_argument("run", type=Path, help="folder of the run, results/NAME")
    parser.add_argument(
        "--author", action="append", default=[], metavar="NAME", help="may be repeated"
    )
    parser.add_argument(
        "--licence",
        default="https://creativecommons.org/licenses/by/4.0/",
        metavar="URL",
        help="of the results; default CC BY 4.0",
    )
    parser.set_defaults(handler=_crate)


def _crate(args: argparse.Namespace) -> None:
    try:
        from crumple.crate import write_crate
    except ModuleNotFoundError as error:
        raise UserError(
            f"`crumple crate` needs {error.name}: pip install 'crumple[share]', or mlcroissant "
            "and rocrate"
        ) from error
    write_crate(args.run, args.author, args.licence)


def _add_import_published(commands) -> None:
    help = "turn the published data set (GIF files and tables) into shards"
    parser = commands.add_parser("import-published", help=help, description=help)
    parser.add_argument("folder", type=Path, help="holds training, validation or both")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards (zarr)")
    _add_workers(parser)
    parser.set_defaults(handler=_import_published)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    help = "processes on this machine; by default one per core"
    parser.add_argument("--processes", type=int, metavar="N", help=help)


def _import_published(args: argparse.Namespace) -> None:
    from crumple.published import import_published

    import_published(args.folder, args.out, args.processes)


def _add_export_published(commands) -> None:
    help = "write a data set in the layout of the published one (GIF files and tables)"
    parser = commands.add_parser("export-published", help=help, description=help)
    parser.add_argument("dataset", type=Path, help="dataset.json")
    parser.add_argument("--out", type=Path, required=True, help="where the result goes")
    _add_workers(parser)
    parser.set_defaults(handler=_export_published)


def _export_published(args: argparse.Namespace) -> None:
    from crumple.published import export_published

    export_published(args.dataset, args.out, args.processes)


def _add_import_checkpoint(commands) -> None:
    help = "turn a checkpoint of the published network into a model"
    parser = commands.add_parser("import-checkpoint", help=help, description=help)
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of the published code")
    help = "folder of the published training data, whose two tables say how fields were scaled"
    parser.add_argument("--tables", type=Path, required=True, metavar="FOLDER", help=help)
    help = "dataset.json of these data as shards, to evaluate candidates with it"
    parser.add_argument("--dataset", type=Path, metavar="FILE", help=help)
    parser.add_argument("--out", type=Path, required=True, help="folder that the model becomes")
    parser.set_defaults(handler=_import_checkpoint)


def _import_checkpoint(args: argparse.Namespace) -> None:
    from crumple.diffusion.imported import import_checkpoint

    import_checkpoint(args.checkpoint, args.tables, args.dataset, args.out)


def _add_check(commands) -> None:
    help = "find what is damaged, missing or of another run in the results of a run"
    parser = commands.add_parser("check", help=help, description=help)
    parser.add_argument("run", type=Path, help="folder of the run, results/NAME")
    parser.set_defaults(handler=_check)


def _check(args: argparse.Namespace) -> None:
    from crumple.check import check

    check(args.run)


def _add_train(commands) -> None:
    parser = _stage(commands, "train", "train the diffusion model", _train)
    parser.add_argument("--dataset", type=Path, required=True, help="dataset.json")
    _add_processes(parser)


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="processes on this machine; by default one per GPU, and one without a GPU",
    )


def _train(args: argparse.Namespace) -> None:
    from crumple.diffusion.launch import run
    from crumple.diffusion.spacetime import train

    run(args.processes, lambda: train(_settings(args), args.dataset, args.out))


def _add_train_designer(commands) -> None:
    help = "train the diffusion model of designs given a curve, on a library"
    _add_library_training(commands, "train-designer", help, _train_designer)


def _add_train_response(commands) -> None:
    help = "train the forward model, which predicts the curve of a design, on a library"
    _add_library_training(commands, "train-response", help, _train_response)


def _add_library_training(commands, name: str, help: str, handler) -> None:
    parser = _stage(commands, name, help, handler)
    help = "designs and curves (npz) of `crumple library`; default: the library of the package"
    parser.add_argument("--library", type=Path, metavar="FILE", help=help)
    _add_processes(parser)


def _train_designer(args: argparse.Namespace) -> None:
    from crumple.diffusion.designer import train_designer
    from crumple.diffusion.launch import run

    run(args.processes, lambda: train_designer(_settings(args), args.library, args.out))


def _train_response(args: argparse.Namespace) -> None:
    from crumple.diffusion.launch import run
    from crumple.diffusion.response import train_response

    run(args.processes, lambda: train_response(_settings(args), args.library, args.out))


def _add_report(commands) -> None:
    parser = _stage(commands, "report", "write the report of a run as one HTML page", _report)
    _add_candidates(parser)
    for name, stage in (("designer", "train-designer"), ("response", "train-response")):
        help = f"model whose training is shown: folder of `crumple {stage}`"
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=help)
    help = "space-time model whose training is shown: folder of `crumple train`"
    parser.add_argument("--model", type=Path, metavar="FOLDER", help=help)
    parser.add_argument("--evaluation", type=Path, required=True, help="folder of `evaluate`")


def _report(args: argparse.Namespace) -> None:
    from crumple.report import write_report

    write_report(
        args.dataset,
        args.model,
        args.generated,
        args.evaluation,
        args.designs,
        args.shards,
        args.out,
        args.designer,
        args.response,
    )


def _add_generate(commands) -> None:
    parser = _stage(commands, "generate", "generate candidates for target curves", _generate)
    help = "forward model, which ranks: folder of `crumple train-response`; default: the package's"
    parser.add_argument("--response", type=Path, metavar="FOLDER", help=help)
    help = "design model: folder of `crumple train-designer`; default: the package's"
    parser.add_argument("--designer", type=Path, metavar="FOLDER", help=help)
    help = "space-time model: folder of `crumple train` or `crumple import-checkpoint`; without it "
    help += "no fields are predicted"
    parser.add_argument("--model", type=Path, metavar="FOLDER", help=help)
    parser.add_argument(
        "--targets", type=Path, nargs="+", required=True, help="CSV files of target curves"
    )
    _add_processes(parser)


def _generate(args: argparse.Namespace) -> None:
    from crumple.diffusion.generation import Models, generate
    from crumple.diffusion.launch import run

    config, models = _settings(args), Models(args.response, args.designer, args.model)
    run(args.processes, lambda: generate(config, models, args.targets, args.out))


def _add_winner(commands) -> None:
    help = "simulate the best designs of a search again: fields, sensitivity, exports"
    parser = _stage(commands, "winner", help, _winner)
    _add_search(parser)
    help = "side of a cell, for the exports; by default that of the goal, or 10 mm"
    parser.add_argument("--cell-size", metavar="MM", help=help)
    _add_block(parser)
    _add_tolerance(parser)
    help = "simulations at the same time; default 1"
    parser.add_argument("--processes", type=int, default=1, metavar="P", help=help)


def _add_tolerance(parser: argparse.ArgumentParser) -> None:
    help = "error at which the goal counts as met; default 0.01"
    parser.add_argument("--tolerance", type=float, default=0.01, help=help)


def _add_search(parser: argparse.ArgumentParser) -> None:
    help = "results of the rounds (npz), in their order"
    parser.add_argument("--rounds", type=Path, nargs="+", required=True, help=help)
    help = "what was searched for, YAML or CSV"
    parser.add_argument("--targets", type=Path, nargs="+", required=True, help=help)
    help = "which of several targets"
    parser.add_argument("--goal", metavar="NAME", help=help)


def _winner(args: argparse.Namespace) -> None:
    from crumple.exports import parse_tiles
    from crumple.search.winner import write_winner

    size = _millimetres("--cell-size", args.cell_size) if args.cell_size else None
    thickness = _millimetres("--thickness", args.thickness) if args.thickness else None
    tiles = parse_tiles(args.tiles)
    write_winner(
        _settings(args),
        args.rounds,
        args.targets,
        args.goal,
        args.out,
        args.tolerance,
        size,
        thickness,
        tiles,
        args.processes,
    )


def _add_design_page(commands) -> None:
    help = "write the result of a search as one HTML page"
    parser = commands.add_parser("design-page", help=help, description=help)
    _add_search(parser)
    help = "folder of `crumple winner`; the page links to its files"
    parser.add_argument("--winner", type=Path, required=True, metavar="FOLDER", help=help)
    help = "file of `crumple library`, whose best match is shown; default: that of the package"
    parser.add_argument("--library", type=Path, metavar="FILE", help=help)
    _add_tolerance(parser)
    parser.add_argument("--out", type=Path, required=True, help="where the page goes (html)")
    parser.set_defaults(handler=_design_page)


def _design_page(args: argparse.Namespace) -> None:
    from crumple.search.page import write_design_page

    write_design_page(
        args.rounds,
        args.targets,
        args.goal,
        args.winner,
        args.library,
        args.tolerance,
        args.out,
    )


def _add_lookup(commands) -> None:
    help = "find the best matches of target curves in a library of simulated designs"
    parser = commands.add_parser("lookup", help=help, description=help)
    help = "CSV of curves, or YAML of a goal"
    parser.add_argument("targets", type=Path, nargs="+", metavar="TARGET", help=help)
    parser.add_argument("--count", type=int, default=8, help="matches per target; default 8")
    help = "file of `crumple library`; by default the one that comes with crumple"
    parser.add_argument("--library", type=Path, metavar="FILE", help=help)
    help = "folder for table, designs and pictures; by default TARGET_matches in this folder"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=help)
    parser.set_defaults(handler=_lookup)


def _lookup(args: argparse.Namespace) -> None:
    from crumple.lookup import lookup

    out = args.out or Path(f"{args.targets[0].stem}_matches")
    lookup(args.targets, args.library, args.count, out)


def _add_library(commands) -> None:
    help = "make a library of the designs of data sets, with their curves, or extend one"
    parser = commands.add_parser("library", help=help, description=help)
    help = "dataset.json, or a shard (zarr)"
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help=help)
    help = "library whose designs are taken over"
    parser.add_argument("--extend", type=Path, metavar="FILE", help=help)
    parser.add_argument("--out", type=Path, required=True, help="where the library goes (npz)")
    parser.set_defaults(handler=_library)


def _library(args: argparse.Namespace) -> None:
    from crumple.library import write_library

    library = write_library(args.sources, args.extend, args.out)
    print(f"{args.out}: {len(library)} designs, {args.out.stat().st_size / 1e6:.2f} MB")


def _add_serve_shards(commands) -> None:
    help = "simulate files of designs that are named on standard input, for `crumple design`"
    parser = commands.add_parser("serve-shards", help=help, description=help)
    _add_settings(parser)
    parser.set_defaults(handler=_serve_shards)


def _serve_shards(args: argparse.Namespace) -> None:
    from crumple.shards import serve

    serve(_settings(args))


def _add_shard(commands) -> None:
    help = "simulate a file of designs: mesh, simulate and rasterise in one go"
    parser = _stage(commands, "shard", help, _shard)
    parser.add_argument("--designs", type=Path, required=True, help="npz file of designs")


def _shard(args: argparse.Namespace) -> None:
    from crumple.shards import make_shard

    make_shard(_settings(args), args.designs, args.out)


def _add_design(commands) -> None:
    help = "search for designs that meet goals, with the finite elements in the loop"
    parser = commands.add_parser("design", help=help, description=help)
    _add_settings(parser)
    _add_goals(parser)
    help = "simulations per goal, at most; default 200 (search.budget)"
    parser.add_argument("--budget", type=int, metavar="N", help=help)
    help = "error at which a search ends; default 0.01 (search.tolerance)"
    parser.add_argument("--tolerance", type=float, metavar="X", help=help)
    help = "simulations at the same time; default: as many as there are processors"
    parser.add_argument("--processes", type=int, metavar="P", help=help)
    help = "folder for the searches and their results; default: GOAL_design in this folder"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=help)
    parser.set_defaults(handler=_design)


def _add_goals(parser: argparse.ArgumentParser) -> None:
    help = "CSV of curves, or YAML of a goal"
    parser.add_argument("goals", type=Path, nargs="+", metavar="GOAL", help=help)
    help = "file of `crumple library`; by default the one that comes with crumple"
    parser.add_argument("--library", type=Path, metavar="FILE", help=help)
    help = "forward model: folder of `crumple train-response`; default: the package's"
    parser.add_argument("--response", type=Path, metavar="FOLDER", help=help)


def _design(args: argparse.Namespace) -> None:
    import json
    import os

    from crumple.config import load_config
    from crumple.search.design import design
    from crumple.search.rounds import Sources

    asked = {"budget": args.budget, "tolerance": args.tolerance}
    given = {"search": {name: value for name, value in asked.items() if value is not None}}
    config = load_config(*args.config, json.dumps(given))
    processes = args.processes or len(os.sched_getaffinity(0))
    out = args.out or Path(f"{args.goals[0].stem}_design")
    sources = Sources(args.library, args.response)
    design(config, args.goals, sources, out, processes)


def _add_propose(commands) -> None:
    help = "propose the designs of the next round of a search"
    parser = _stage(commands, "propose", help, _propose)
    _add_goals(parser)
    parser.add_argument("--name", required=True, help="which of the goals")
    help = "results of all earlier rounds, in order"
    parser.add_argument("--results", type=Path, nargs="*", default=[], metavar="FILE", help=help)


def _propose(args: argparse.Namespace) -> None:
    from crumple.search.rounds import GoalSearch, Sources

    sources = Sources(args.library, args.response)
    search = GoalSearch(_settings(args), sources, args.goals, args.name)
    search.propose(args.results, args.out)


def _add_collect(commands) -> None:
    help = "collect the results of a round of a search"
    parser = commands.add_parser("collect", help=help, description=help)
    parser.add_argument("goals", type=Path, nargs="+", metavar="GOAL", help="as for `propose`")
    parser.add_argument("--name", required=True, help="which of the goals")
    help = "proposals.npz of the folder that `crumple propose` has written"
    parser.add_argument("--proposals", type=Path, required=True, metavar="FILE", help=help)
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="made from them")
    parser.add_argument("--out", type=Path, required=True, help="where the result goes")
    parser.set_defaults(handler=_collect)


def _collect(args: argparse.Namespace) -> None:
    from crumple.search.choice import one_goal
    from crumple.search.collecting import collect

    collect(one_goal(args.goals, args.name), args.proposals, args.shards, args.out)


COMMANDS = (
    _add_config,
    _add_sample,
    _add_mesh,
    _add_simulate,
    _add_simulate_one,
    _add_sensitivity,
    _add_export,
    _add_verify,
    _add_train,
    _add_train_designer,
    _add_train_response,
    _add_generate,
    _add_rasterise,
    _add_index,
    _add_inspect,
    _add_check,
    _add_crate,
    _add_import_published,
    _add_export_published,
    _add_import_checkpoint,
    _add_library,
    _add_lookup,
    _add_design,
    _add_propose,
    _add_shard,
    _add_serve_shards,
    _add_collect,
    _add_winner,
    _add_design_page,
    _add_targets,
    _add_check_goal,
    _add_extract,
    _add_evaluate,
    _add_report,
)


if __name__ == "__main__":
    sys.exit(main())
