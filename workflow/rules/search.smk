# Search for designs that meet goals, with the finite elements in the loop: what `crumple design` does on
# one machine. A round is propose -> shard (mesh, simulate, rasterise in one job) -> collect; a round
# after the goal is met or the budget is spent holds no design.


rule propose:
    input:
        goals=file_of_targets(CONFIG.search.goals),
        library=LIBRARY,
        response=MODELS["response"],
        results=earlier_results,
    output:
        expand(f"{ROUND}/designs/{{shard}}.npz", shard=ROUND_SHARDS, allow_missing=True),
        f"{ROUND}/designs/proposals.npz",
    log:
        "<logs>/propose/{goal}/{round}.log",
    benchmark:
        "<benchmarks>/propose/{goal}/{round}.tsv"
    conda:
        "../../envs/learn.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=minutes(15),
    params:
        config=settings("propose"),
        tolerance=json.dumps({"search": {"tolerance": CONFIG.search.tolerance}}),
        name=name_of_goal,
        models=options_of_models,
        folder=folder_of_outputs,
    message:
        "propose the designs of round {wildcards.round} for {wildcards.goal}"
    shell:
        'learn propose --config {params.config:q} --config "$OPERATION" --config {params.tolerance:q}'
        " {input.goals:q} --name {params.name:q} --library {input.library} {params.models:q}"
        " --results {input.results} --out {params.folder:q} &> {log}"


rule shard:
    input:
        f"{ROUND}/designs/{{shard}}.npz",
    output:
        directory(f"{ROUND}/shards/{{shard}}.zarr"),
    log:
        "<logs>/shard/{goal}/{round}/{shard}.log",
    benchmark:
        "<benchmarks>/shard/{goal}/{round}/{shard}.tsv"
    conda:
        "../../envs/fem.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=5 + math.ceil(CONFIG.search.shard_size * 25 / 60),
    params:
        config=settings("shard"),
    message:
        "simulate shard {wildcards.shard} of round {wildcards.round} for {wildcards.goal}"
    shell:
        "fem shard --config {params.config:q} --designs {input} --out {output} &> {log}"


rule collect:
    input:
        goals=file_of_targets(CONFIG.search.goals),
        designs=f"{ROUND}/designs/proposals.npz",
        shards=expand(
            f"{ROUND}/shards/{{shard}}.zarr", shard=ROUND_SHARDS, allow_missing=True
        ),
    output:
        f"{ROUND}/results.npz",
    log:
        "<logs>/collect/{goal}/{round}.log",
    benchmark:
        "<benchmarks>/collect/{goal}/{round}.tsv"
    conda:
        "../../envs/learn.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(5),
    params:
        name=name_of_goal,
    message:
        "collect the results of round {wildcards.round} for {wildcards.goal}"
    shell:
        "learn collect {input.goals:q} --name {params.name:q} --proposals {input.designs}"
        " --shards {input.shards} --out {output} &> {log}"


rule winner:
    input:
        goals=file_of_targets(CONFIG.search.goals),
        results=expand(f"{ROUND}/results.npz", round=ROUNDS, allow_missing=True),
    output:
        directory("<results>/search/{goal}/result"),
    log:
        "<logs>/winner/{goal}.log",
    benchmark:
        "<benchmarks>/winner/{goal}.tsv"
    conda:
        "../../envs/fem.yaml"
    threads: 4
    resources:
        mem_mb=memory(4000),
        runtime=30,
    params:
        config=settings("winner"),
        tolerance=CONFIG.search.tolerance,
        name=name_of_goal,
    message:
        "simulate the best designs for {wildcards.goal} again: fields, sensitivity, exports"
    shell:
        "fem winner --config {params.config:q} --rounds {input.results}"
        " --targets {input.goals:q} --goal {params.name:q} --tolerance {params.tolerance}"
        " --processes {threads} --out {output} &> {log}"


rule design_page:
    input:
        goals=file_of_targets(CONFIG.search.goals),
        library=LIBRARY,
        winner="<results>/search/{goal}/result",
        results=expand(f"{ROUND}/results.npz", round=ROUNDS, allow_missing=True),
    output:
        "<results>/search/{goal}/index.html",
    log:
        "<logs>/design_page/{goal}.log",
    benchmark:
        "<benchmarks>/design_page/{goal}.tsv"
    conda:
        "../../envs/learn.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=minutes(15),
    params:
        tolerance=CONFIG.search.tolerance,
        name=name_of_goal,
    message:
        "write the result of the search: {output}"
    shell:
        "learn design-page --rounds {input.results} --targets {input.goals:q} --goal {params.name:q}"
        " --winner {input.winner} --library {input.library} --tolerance {params.tolerance}"
        " --out {output} &> {log}"


rule search:
    input:
        expand("<results>/search/{goal}/index.html", goal=names_of_goals()),
