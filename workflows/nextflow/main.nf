#!/usr/bin/env nextflow
/*
 * An archive in shards, each a task: nextflow run main.nf --slides archive --output out
 *
 * All shards write into one output folder, from the launch folder, so that paths mean what they mean in your shell.
 * Nothing is published from the work folder: the masks of an archive are not copied.
 */

process SHARD {
    tag "${index} of ${count}"
    label 'segmentation'
    cache false // the command itself knows what is done, inside a slide, too

    input:
    val index
    val count

    output:
    val index

    script:
    """
    cd ${quoted(workflow.launchDir)}
    wsi-pipeline run ${quoted(params.slides)} --workflow ${quoted(params.workflow)} --output ${quoted(params.output)} \\
        --shard ${index}/${count} --workers ${task.cpus} ${params.options}
    """
}

/** Words as the shell takes them: a list, or one. */
def quoted(words) {
    return [words].flatten().collect { word -> "'" + word.toString().replace("'", "'\\''") + "'" }.join(' ')
}

workflow {
    if (!params.slides) {
        error "No slides. Give --slides with a folder, a file or a manifest."
    }
    SHARD(channel.of(1..(params.shards as int)), params.shards)
}
