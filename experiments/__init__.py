"""One study a folder: question, prediction, command, table, figure, verdict. Negative results keep their heading."""
