#!/bin/sh
# An array: ten tasks of one job, at most four at a time. Try:
#   qsub --wait array.sh     (ends when all tasks have ended)
#   qlog last                (what they printed)
#QSUB --name squares
#QSUB --array 1-10%4
#QSUB --time 1m

n=$QSUB_TASK_ID
echo "task $n of $QSUB_TASK_COUNT: $n squared is $((n * n))"
