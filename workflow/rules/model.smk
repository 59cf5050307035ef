# Training, the target curves, and candidates for them.

TARGETS = [CONFIG.evaluation.targets]
if CONFIG.evaluation.held_out:
    TARGETS.append("<results>/held_out.csv")


rule train:
    input:
        "<results>/data/dataset.json",
    output:
        directory("<results>/model"),
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
    message:
        "train the diffusion model; progress is in {log}"
    shell:
        'learn train --config {params.config:q} --config "$OPERATION"'
        " --dataset {input} --out {output} &> {log}"


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
        model="<results>/model",
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
    message:
        "generate candidates for every target curve"
    shell:
        'learn generate --config {params.config:q} --config "$OPERATION"'
        " --model {input.model} --targets {input.targets} --out {output} &> {log}"
