// Numbers and times as people read them.

const NUMBER = new Intl.NumberFormat("en");
const ONE_DIGIT = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const ABSOLUTE = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** What stands for a value that isn't there. */
export const NOTHING = "–";

const missing = (value) => value === null || value === undefined;

/** `1,234` */
export function number(value) {
  return missing(value) ? NOTHING : NUMBER.format(value);
}

/** `1 run`, `2 runs` */
export function count(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

/** `4.2 MB` */
export function bytes(value) {
  if (missing(value)) return NOTHING;
  let unit = 0;
  while (Math.abs(value) >= 999.95 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${ONE_DIGIT.format(value)} ${UNITS[unit]}`;
}

/** `18,200/s` */
export function rate(value) {
  if (missing(value)) return NOTHING;
  return `${value < 10 ? ONE_DIGIT.format(value) : NUMBER.format(Math.round(value))}/s`;
}

/** `420 ms`, `4.2 s`, `42 s`, `3 min 12 s`, `2 h 5 min`, `3 d 4 h` */
export function duration(milliseconds) {
  if (missing(milliseconds)) return NOTHING;
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 9.95) return `${ONE_DIGIT.format(seconds)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return two(Math.floor(whole / 60), "min", whole % 60, "s");
  const minutes = Math.round(seconds / 60);
  if (minutes < 1440) return two(Math.floor(minutes / 60), "h", minutes % 60, "min");
  const hours = Math.round(seconds / 3600);
  return two(Math.floor(hours / 24), "d", hours % 24, "h");
}

function two(first, unit, second, smaller) {
  return second ? `${first} ${unit} ${second} ${smaller}` : `${first} ${unit}`;
}

/** `now`, `12 s ago`, `in 3 min`: `moment` and `now` in milliseconds since 1970. */
export function relative(moment, now) {
  const seconds = Math.round((moment - now) / 1000);
  const size = Math.abs(seconds);
  if (size < 3) return "now";
  const [amount, unit] =
    size < 60
      ? [size, "s"]
      : size < 3600
        ? [size / 60, "min"]
        : size < 86_400
          ? [size / 3600, "h"]
          : [size / 86_400, "d"];
  const words = `${Math.floor(amount)} ${unit}`;
  return seconds > 0 ? `in ${words}` : `${words} ago`;
}

/** `18 Jan 2026, 12:03:11 UTC`, in the reader's time zone */
export function absolute(moment) {
  return ABSOLUTE.format(new Date(moment));
}

/** `12:03:11`, in the reader's time zone */
export function clock(moment) {
  return CLOCK.format(new Date(moment));
}

/** `63 %` */
export function percent(fraction) {
  return missing(fraction) || Number.isNaN(fraction) ? NOTHING : `${ONE_DIGIT.format(fraction * 100)} %`;
}

/** `step_failed` → `step failed` */
export function words(name) {
  return String(name).replaceAll("_", " ");
}
