# Training, the target curves, and candidates for them.

TARGETS = [CONFIG.evaluation.targets]
if CONFIG.evaluation.held_out:
    TARGETS.append("<results>/held_out.csv")

# Files, not their folder, which Snakemake would remove before it trains again: with the checkpoints
# that stay in it, `crumple train` goes on where the settings allow it.
MODEL = expand("<results>/model/{file}", file=MODEL_FILES)


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
        mem_mb=memory(4000),
        runtime=1440,
    params:
        config=settings("train"),
        folder=folder_of_outputs,
    message:
        "train the diffusion model; progress is in {log}"
    shell:
        'learn train --config {params.config:q} --config "$OPERATION"'
        " --dataset {input} --out {params.folder:q} &> {log}"


rule targets:
    input:
        "<results>/data/dataset.json",
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
        runtime=5,
    params:
        config=settings("targets"),
    message:
        "take held-out responses as target curves"
    shell:
        "learn targets --config {params.config:q} --dataset {input} --out {output} &> {log}"


rule generate:
    input:
        model=MODEL,
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
    params:
        config=settings("generate"),
        model=folder_of_model,
    message:
        "generate candidates for every target curve"
    shell:
        'learn generate --config {params.config:q} --config "$OPERATION"'
        " --model {params.model:q} --targets {input.targets} --out {output} &> {log}"
