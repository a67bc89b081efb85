#!/usr/bin/env perl
# Submitting from another language: commands and JSON are all it takes.
# Runs an array of ten tasks, waits, and reads how each of them ended and what it printed.
#
# Usage: perl other_language.pl        (QSUB, QSTAT, ...: other names of the commands)
use strict;
use warnings;
use JSON::PP;

# Words go to the command as they are: no shell, no quoting.
sub output_of {
    my ($name, @words) = @_;
    my $command = $ENV{ uc $name } // $name;
    open my $pipe, '-|', $command, @words or die "$command: $!\n";
    local $/;
    my $text = <$pipe>;
    close $pipe or die "$command failed\n";
    return $text;
}

my $script = 'echo $((QSUB_TASK_ID * QSUB_TASK_ID)); test $QSUB_TASK_ID != 7';
my $job    = decode_json(output_of('qsub', '--json', '-a', '1-10', '-N', 'squares', '--wrap', $script));
print "job $job->{id}\n";

# qwait has the exit code of the job: here 1, as task 7 fails.
system($ENV{QWAIT} // 'qwait', $job->{id});
print "ended with exit code ", $? >> 8, "\n";

for my $task (@{ decode_json(output_of('qstat', '-t', '--json', $job->{id})) }) {
    my $log = output_of('qlog', "$job->{id}_$task->{index}");
    chomp $log;
    print "task $task->{index} on $task->{node}: $task->{state}, printed $log\n";
}
