#!/usr/bin/env bash
# tools/lint.sh fmt|check [file...]: formats, or checks format, rooms and clang-tidy's agreed set (.clang-tidy).
# Different releases of clang-format disagree, so the project holds to 14.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=$1
shift
format=$(command -v clang-format-14 || command -v clang-format)
tidy=$(command -v clang-tidy-14 || command -v clang-tidy)
if [[ $# -gt 0 ]]; then
  files=("$@")
else
  # New files too, before they are added.
  mapfile -t files < <(git ls-files --cached --others --exclude-standard -- '*.cpp' '*.hpp' '*.h')
fi
[[ ${#files[@]} -gt 0 ]] || { echo "lint.sh: no files" >&2; exit 1; }

if [[ $mode == fmt ]]; then
  exec "$format" -i "${files[@]}"
fi

failed=0
tools/check_rooms || failed=1
tools/check_headers || failed=1
"$format" --dry-run --Werror "${files[@]}" || { echo "lint: \`make fmt\` formats these" >&2; failed=1; }

# clang-tidy reads how each source is compiled from the database; headers are checked through the sources.
mapfile -t sources < <(printf '%s\n' "${files[@]}" | awk -v db=build-lint/compile_commands.json '
  BEGIN { while ((getline line < db) > 0) if (match(line, /"file": "[^"]*"/)) known[substr(line, RSTART + 9, RLENGTH - 10)] = 1 }
  /\.cpp$/ && (ENVIRON["PWD"] "/" $0 in known)')
if [[ ${#sources[@]} -gt 0 ]]; then
  printf '%s\0' "${sources[@]}" |
    xargs -0 -n 1 -P "${JOBS:-$(nproc)}" "$tidy" -p build-lint --quiet --warnings-as-errors='*' \
      --extra-arg=-Wno-unknown-warning-option 2> >(grep -v 'warnings generated\|Suppressed\|Use -header-filter' >&2) ||
    failed=1
fi
[[ $failed -eq 0 ]] && echo "lint: ${#files[@]} files are in order, ${#sources[@]} of them read by clang-tidy"
exit $failed
