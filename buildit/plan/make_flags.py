"""How `style: make` hands CFLAGS, CXXFLAGS, CPPFLAGS and LDFLAGS to a Makefile; text only, no I/O.

GNU make (manual, 6.10 and 9.5): a Makefile's `CFLAGS = -O2` beats the environment, so flags that
are only there are lost in silence; a variable of the command line beats every assignment and makes
`CFLAGS += -Iinclude` do nothing, so what the program needs is lost. Which of both would happen is
read in the Makefiles:

1. Where all that they assign to a variable is about optimisation, debugging and warnings (or
   nothing), ours goes on the command line.
2. Else the Makefile's value stays as it is, and ours comes with the compiler: `CC='cc FLAGS'` for
   C, `CXX` for C++; the linker's flags with both. The Makefile's words come later, and win.

`configure:` stands last on the command line: a recipe's own `CFLAGS=…` or `CC=…` wins over both.
"""

from __future__ import annotations

MAKE_FLAGS = r"""
makefiles() {
  find . -type f \( -name '[Mm]akefile*' -o -name 'GNUmakefile*' -o -name '*.mk' -o -name '*.mak' \
    \) -exec awk -v name="$1" '
      /\\$/ { line = line substr($0, 1, length($0) - 1) " "; next }
      {
        line = line $0
        if (match(line, "(^|[ \t:])" name "[ \t]*[:?+!]*=")) {
          value = substr(line, RSTART + RLENGTH)
          sub(/#.*/, "", value); gsub("[$][({]" name "[)}]", "", value); gsub(/["\047]/, "", value)
          gsub(/[ \t\r]+/, " ", value); sub(/^ /, "", value); sub(/ $/, "", value)
          print value
        }
        line = ""
      }' {} +
}
usual='-(O[0-3sgz]?|g[0-9a-z-]*|W([a-z][^, ]*)?|pedantic|pedantic-errors|pipe|s)'
carried() {
  makefiles "$1" | grep -Evx "($usual( $usual)*)?" >/dev/null
}
compiler() {
  words=$(makefiles "$1" | sed 's/^[$][({][A-Z_]*[)}]//' | sort -u)
  case $words in
    '' | cc | gcc | c++ | g++) echo "$2" ;;
    *[!a-zA-Z0-9_.+=\ -]*)
      if printf '%s\n' "$words" | grep -Evx 'cc|gcc|clang|c\+\+|g\+\+|clang\+\+' >/dev/null; then
        echo "buildit: note: the Makefiles set $1 and $3 by themselves, so the flags of buildit" \
          "may be lost: give $1=… or $3=… in configure:" >&2
      else
        echo "$2"
      fi ;;
    *) echo "$words" ;;
  esac
}
cc='' cxx=''
for name in CFLAGS CXXFLAGS CPPFLAGS LDFLAGS; do
  eval "value=\${$name:-}"
  if [ -z "$value" ]; then continue; fi
  if ! carried "$name"; then set -- "$name=$value" "$@"; continue; fi
  case $name in CXXFLAGS) ;; *) cc="$cc $value" ;; esac
  case $name in CFLAGS) ;; *) cxx="$cxx $value" ;; esac
done
if [ -n "$cxx" ]; then
  words=$(compiler CXX c++ CXXFLAGS)
  if [ -n "$words" ]; then set -- "CXX=$words$cxx" "$@"; fi
fi
if [ -n "$cc" ]; then
  words=$(compiler CC cc CFLAGS)
  if [ -n "$words" ]; then set -- "CC=$words$cc" "$@"; fi
fi
"""
"""For `sh -eu`, before make is called with `"$@"`."""
