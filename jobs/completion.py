"""metasr completion: what makes a shell complete verbs, flags and values."""

from collections.abc import Sequence

from jobs.cli import Parser, run, say

SHELLS = "bash", "zsh", "fish"
DESCRIPTION = """Print what makes a shell complete the verbs, flags and values of `metasr`.

  source <(metasr completion bash)                                   # in ~/.bashrc
  source <(metasr completion zsh)                                    # in ~/.zshrc, after compinit
  metasr completion fish > ~/.config/fish/completions/metasr.fish"""


def main(arguments: Sequence[str]) -> None:
    """Print the code for a shell."""
    parser = Parser(prog="metasr completion", description=DESCRIPTION)
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    known = parser.parse_known(arguments)

    from argcomplete.shell_integration import shellcode

    say(shellcode(["metasr"], shell=known.shell))


if __name__ == "__main__":
    run(main)
