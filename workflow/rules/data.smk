# The data set, shard by shard. mesh, simulate and rasterise also serve the generated designs.

# A run with the models of the package has no data set to look at.
CONTACT_SHEET = "<results>/data/contact_sheet.png" if CONFIG.models == "train" else []


rule sample:
    output:
        "<results>/data/designs/{shard}.npz",
    log:
        "<logs>/sample/{shard}.log",
    benchmark:
        "<benchmarks>/sample/{shard}.tsv"
    conda:
        "../../envs/fem.yaml"
    resources:
        mem_mb=memory(500),
        runtime=minutes(5),
    params:
        config=designs_of_shard,
    message:
        "draw the random designs of shard {wildcards.shard}"
    shell:
        "fem sample --config {params.config:q} --shard {wildcards.shard} --out {output} &> {log}"


rule mesh:
    input:
        "<results>/{set}/designs/{shard}.npz",
    output:
        directory("<results>/{set}/meshes/{shard}"),
    log:
        "<logs>/mesh/{set}/{shard}.log",
    benchmark:
        "<benchmarks>/mesh/{set}/{shard}.tsv"
    conda:
        "../../envs/fem.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes_per_shard(seconds_per_design=3),
    params:
        config=settings("mesh"),
    message:
        "mesh shard {wildcards.shard} of {wildcards.set}"
    shell:
        "fem mesh --config {params.config:q} --designs {input} --out {output} &> {log}"


rule simulate:
    input:
        "<results>/{set}/meshes/{shard}",
    output:
        temp(directory("<results>/{set}/simulations/{shard}")),
    log:
        "<logs>/simulate/{set}/{shard}.log",
    benchmark:
        "<benchmarks>/simulate/{set}/{shard}.tsv"
    conda:
        "../../envs/fem.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes_per_shard(seconds_per_design=20),
    params:
        config=settings("simulate"),
    message:
        "simulate shard {wildcards.shard} of {wildcards.set}"
    shell:
        "fem simulate --config {params.config:q} --meshes {input} --out {output} &> {log}"


rule rasterise:
    input:
        designs="<results>/{set}/designs/{shard}.npz",
        simulations="<results>/{set}/simulations/{shard}",
    output:
        directory("<results>/{set}/shards/{shard}.zarr"),
    log:
        "<logs>/rasterise/{set}/{shard}.log",
    benchmark:
        "<benchmarks>/rasterise/{set}/{shard}.tsv"
    conda:
        "../../envs/fem.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(minutes_per_shard(seconds_per_design=3)),
    params:
        config=settings("rasterise"),
    message:
        "rasterise shard {wildcards.shard} of {wildcards.set}"
    shell:
        "fem rasterise --config {params.config:q} --designs {input.designs}"
        " --simulations {input.simulations} --out {output} &> {log}"


rule index:
    input:
        expand("<results>/data/shards/{shard}.zarr", shard=shards(CONFIG.designs.count)),
    output:
        "<results>/data/dataset.json",
    log:
        "<logs>/index.log",
    benchmark:
        "<benchmarks>/index.tsv"
    conda:
        "../../envs/fem.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(60),
    params:
        config=settings("index"),
        shards=folder_of_inputs,
    message:
        "index the data set: valid designs, failures, split, normalisation"
    shell:
        "fem index --config {params.config:q} --shards {params.shards:q} --out {output} &> {log}"


rule library:
    input:
        "<results>/data/dataset.json",
    output:
        "<results>/data/library.npz",
    log:
        "<logs>/library.log",
    benchmark:
        "<benchmarks>/library.tsv"
    conda:
        "../../envs/learn.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(30),
    message:
        "put the designs and their curves into one file"
    shell:
        "learn library {input} --out {output} &> {log}"


rule inspect:
    input:
        "<results>/data/dataset.json",
    output:
        report(
            "<results>/data/contact_sheet.png",
            caption="../report/contact_sheet.rst",
            category="Data set",
        ),
    log:
        "<logs>/inspect.log",
    benchmark:
        "<benchmarks>/inspect.tsv"
    conda:
        "../../envs/fem.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(30),
    message:
        "draw a contact sheet of the data set; its statistics are in {log}"
    shell:
        "fem inspect {input} --sheet {output} &> {log}"
