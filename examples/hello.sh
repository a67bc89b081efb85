#!/bin/sh
# A shell job. Try:  qsub hello.sh
#                    qsub -f hello.sh        (and follow what it prints)
#QSUB --name hello
#QSUB --cpus 1
#QSUB --time 1m

echo "Hello from job $QSUB_JOB_ID on node $QSUB_NODE, with $QSUB_CPUS cpu(s)."
echo "Submitted from $QSUB_SUBMIT_DIR."
