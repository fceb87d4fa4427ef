"""Handlers' log lines on their way to standard error."""

import threading

from streamfn.mapping.logs import QUEUE_BYTES_MAX, LogWriter, our_line


def test_what_handlers_print_does_not_push_out_what_is_said_of_the_run():
    reading, said = threading.Event(), []

    def emit(text):
        reading.wait(10)
        said.append(text)

    writer = LogWriter(emit)
    flood = "x" * (1 << 20) + "\n"
    for _ in range(8):
        writer.write(flood)
    writer.write("lost\n")
    writer.write("streamfn: a batch was discarded\n", ours=True)
    reading.set()
    writer.close()
    text = "".join(said)
    assert "streamfn: a batch was discarded\n" in text
    assert "lost" not in text
    assert "log lines dropped" in text
    assert len(text) < 2 * QUEUE_BYTES_MAX


def test_what_a_handler_has_said_neither_ends_a_line_of_ours_nor_paints_the_terminal():
    assert our_line("no: \x1b[31mred\nstreamfn: forged") == "streamfn: no: \\x1b[31mred\\x0astreamfn: forged\n"
