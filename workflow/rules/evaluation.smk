# The best candidates through the finite elements again (rules mesh, simulate, rasterise), and the
# report.

VERIFIED = shards(verified_count())


rule extract:
    input:
        "<results>/generated.zarr",
    output:
        "<results>/verified/designs/{shard}.npz",
    log:
        "<logs>/extract/{shard}.log",
    benchmark:
        "<benchmarks>/extract/{shard}.tsv"
    conda:
        "../../envs/learn.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(5),
    params:
        config=settings("extract"),
    message:
        "take the best candidates as designs: shard {wildcards.shard}"
    shell:
        "learn extract --config {params.config:q} {input}"
        " --shard {wildcards.shard} --out {output} &> {log}"


rule evaluate:
    input:
        dataset=KNOWN,
        generated="<results>/generated.zarr",
        designs=expand("<results>/verified/designs/{shard}.npz", shard=VERIFIED),
        shards=expand("<results>/verified/shards/{shard}.zarr", shard=VERIFIED),
    output:
        report(
            directory("<results>/evaluation"),
            patterns=["{table}.csv"],
            caption="../report/tables.rst",
            category="Evaluation",
        ),
    log:
        "<logs>/evaluate.log",
    benchmark:
        "<benchmarks>/evaluate.tsv"
    conda:
        "../../envs/learn.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30),
    message:
        "compare target, prediction and finite elements"
    shell:
        "learn evaluate --dataset {input.dataset}"
        " --generated {input.generated}"
        " --designs {input.designs} --shards {input.shards} --out {output} &> {log}"


rule report:
    input:
        **MODELS,
        dataset=KNOWN,
        generated="<results>/generated.zarr",
        evaluation="<results>/evaluation",
        designs=expand("<results>/verified/designs/{shard}.npz", shard=VERIFIED),
        shards=expand("<results>/verified/shards/{shard}.zarr", shard=VERIFIED),
    output:
        report(
            "<results>/report.html",
            caption="../report/report.rst",
            category="Evaluation",
        ),
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    conda:
        "../../envs/learn.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30),
    params:
        models=options_of_models,
    message:
        "write the report: {output}"
    shell:
        "learn report --dataset {input.dataset}"
        " {params.models:q} --generated {input.generated}"
        " --evaluation {input.evaluation} --designs {input.designs} --shards {input.shards}"
        " --out {output} &> {log}"
