# From a configuration to verified designs. The rules are in workflow/rules/, in this order:
#
#   data.smk        sample -> mesh -> simulate -> rasterise -> index -> library
#                   the simulated data set
#   model.smk       train, train_designer, train_response, targets -> generate
#                   models, and candidates for target curves
#   evaluation.smk  extract -> (mesh -> simulate -> rasterise) -> evaluate -> report
#   search.smk      propose -> shard -> collect, round by round          designs that meet goals

from snakemake.utils import min_version

min_version("9.12")


configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/search.smk"


rule all:
    default_target: True
    input:
        CONTACT_SHEET,
        "<results>/report.html",
