# The models, trained or those of the package, the target curves, and candidates for them.

TARGETS = [str(file_of_targets(CONFIG.evaluation.targets))]
if CONFIG.evaluation.held_out:
    TARGETS.append("<results>/held_out.csv")

# Files, not their folders, which Snakemake would remove before it trains again: with the checkpoints
# that stay in them, training goes on where the settings allow it.
MODEL = expand("<results>/model/{file}", file=MODEL_FILES)
DESIGNER = multiext("<results>/designer/designer", ".safetensors", ".json")
RESPONSE = multiext("<results>/response/response", ".safetensors", ".json")

# KNOWN are the designs that the models in MODELS have learnt from, and those that were held out.
if CONFIG.models == "package":
    KNOWN = LIBRARY = from_package("library.npz")
    MODELS = {
        name: multiext(from_package(f"{name}/{name}"), ".safetensors", ".json")
        for name in ("designer", "response")
    }
else:
    KNOWN, LIBRARY = "<results>/data/dataset.json", "<results>/data/library.npz"
    MODELS = {"response": RESPONSE, "model": MODEL}
    if CONFIG.generation.method == "cascade":
        MODELS["designer"] = DESIGNER

# What starts the processes of these rules on several nodes, as `srun --ntasks=4` does; the profile
# says so.
LAUNCH = ""


rule train:
    input:
        "<results>/data/dataset.json",
    output:
        MODEL,
    log:
        "<logs>/train.log",
    benchmark:
        "<benchmarks>/train.tsv"
    conda:
        "../../envs/learn.yaml"
    threads: 8
    resources:
        # The network of the defaults takes 17.9 GB on a CPU for 16 samples, smaller ones less.
        mem_mb=memory(2000 + 1100 * CONFIG.training.micro_batch),
        runtime=1440,
        launch=LAUNCH,
    params:
        config=settings("train"),
        folder=folder_of_outputs,
    message:
        "train the diffusion model; progress is in {log}"
    shell:
        'launch={resources.launch:q}; learn train --config {params.config:q} --config "$OPERATION"'
        " --dataset {input} --out {params.folder:q} &> {log}"


rule train_designer:
    input:
        "<results>/data/library.npz",
    output:
        DESIGNER,
    log:
        "<logs>/train_designer.log",
    benchmark:
        "<benchmarks>/train_designer.tsv"
    conda:
        "../../envs/learn.yaml"
    threads: 8
    resources:
        mem_mb=memory(4000),
        runtime=1440,
        launch=LAUNCH,
    params:
        config=settings("train-designer"),
        folder=folder_of_outputs,
    message:
        "train the diffusion model of designs; progress is in {log}"
    shell:
        'launch={resources.launch:q}; learn train-designer --config {params.config:q} --config "$OPERATION"'
        " --library {input} --out {params.folder:q} &> {log}"


rule train_response:
    input:
        "<results>/data/library.npz",
    output:
        RESPONSE,
    log:
        "<logs>/train_response.log",
    benchmark:
        "<benchmarks>/train_response.tsv"
    conda:
        "../../envs/learn.yaml"
    threads: 8
    resources:
        mem_mb=memory(4000),
        runtime=1440,
        launch=LAUNCH,
    params:
        config=settings("train-response"),
        folder=folder_of_outputs,
    message:
        "train the forward model, which ranks candidates; progress is in {log}"
    shell:
        'launch={resources.launch:q}; learn train-response --config {params.config:q} --config "$OPERATION"'
        " --library {input} --out {params.folder:q} &> {log}"


rule targets:
    input:
        KNOWN,
    output:
        "<results>/held_out.csv",
    log:
        "<logs>/targets.log",
    benchmark:
        "<benchmarks>/targets.tsv"
    conda:
        "../../envs/learn.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(5),
    params:
        config=settings("targets"),
    message:
        "take held-out responses as target curves"
    shell:
        "learn targets --config {params.config:q} --dataset {input} --out {output} &> {log}"


rule generate:
    input:
        **MODELS,
        targets=TARGETS,
    output:
        directory("<results>/generated.zarr"),
    log:
        "<logs>/generate.log",
    benchmark:
        "<benchmarks>/generate.tsv"
    conda:
        "../../envs/learn.yaml"
    threads: 8
    resources:
        mem_mb=memory(4000),
        runtime=240,
        launch=LAUNCH,
    params:
        config=settings("generate"),
        models=options_of_models,
    message:
        "generate candidates for every target curve"
    shell:
        'launch={resources.launch:q}; learn generate --config {params.config:q} --config "$OPERATION"'
        " {params.models:q} --targets {input.targets:q} --out {output} &> {log}"
