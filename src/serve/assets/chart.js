"use strict";
// Curves as SVG. Lines differ by dash and marker as well as by colour; every value can be read with the keyboard and in a
// table below.

DS.DASHES = ["", "7 3", "2 3", "9 3 2 3", "1 4", "12 3"];
DS.MARKERS = ["circle", "square", "triangle", "diamond", "cross", "plus"];

/** Round steps that divide a range into about `count` parts. */
DS.ticks = (low, high, count) => {
  if (!(high > low)) return [low];
  const raw = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999999) || 10 * power;
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
};

/** At most `most` places of `length`, the last among them, for markers that do not cover the line. */
DS.spread = (length, most) => {
  const stride = Math.max(1, Math.ceil(length / most));
  const places = [];
  for (let at = 0; at < length; at += stride) places.push(at);
  if (length && places[places.length - 1] !== length - 1) places.push(length - 1);
  return places;
};

DS.marker = (kind, x, y, attributes) => {
  const r = 3.2;
  const paths = {
    circle: `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`,
    square: `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    triangle: `M${x},${y - r * 1.2}l${r * 1.2},${r * 2}h${-r * 2.4}z`,
    diamond: `M${x},${y - r * 1.3}l${r * 1.3},${r * 1.3}l${-r * 1.3},${r * 1.3}l${-r * 1.3},${-r * 1.3}z`,
    cross: `M${x - r},${y - r}l${2 * r},${2 * r}m0,${-2 * r}l${-2 * r},${2 * r}`,
    plus: `M${x - r},${y}h${2 * r}m${-r},${-r}v${2 * r}`,
  };
  return DS.svg("path", { d: paths[kind], ...attributes });
};

DS.lineStyle = (index) => ({
  colour: `c${index % 6}`,
  dash: DS.DASHES[(index + Math.floor(index / 6)) % 6],
  marker: DS.MARKERS[index % 6],
});

/** A piece of a line as the legend shows it. */
DS.sample = (index) => {
  const style = DS.lineStyle(index);
  return DS.svg("svg", { class: `sample ${style.colour}`, width: 44, height: 14, "aria-hidden": "true" },
    DS.svg("path", { class: "line", d: "M2,7H42", "stroke-dasharray": style.dash }),
    DS.marker(style.marker, 22, 7, { class: "marker" }));
};

/**
 * A figure with curves. `lines` are `{label, index, xs, ys}`; points without a value are left out.
 * Left and right move a cursor over the points, which are read out.
 */
DS.chart = ({ title, name, xName, lines }) => {
  const width = 460, height = 230, left = 58, right = 12, top = 10, bottom = 30;
  const points = lines.map((line) => ({
    ...line,
    at: line.xs.map((x, i) => [x, line.ys[i]]).filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y) && y !== null),
  })).filter((line) => line.at.length > 0);
  const all = points.flatMap((line) => line.at);
  const heading = DS.h("figcaption", {}, title);
  if (all.length === 0) return null;
  const range = (values, isShare) => {
    let low = Infinity, high = -Infinity;
    for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    if (isShare) { low = Math.min(0, low); }
    if (low === high) { const pad = Math.abs(low) * 0.1 || 1; low -= pad; high += pad; }
    return [low, high];
  };
  const [x0, x1] = range(all.map(([x]) => x));
  const [y0, y1] = range(all.map(([, y]) => y), /_frac$|pass_/.test(name));
  const sx = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
  const sy = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - top - bottom);
  const picture = DS.svg("svg", {
    viewBox: `0 0 ${width} ${height}`, class: "chart", tabindex: "0", role: "img",
    "aria-label": `${title} against ${xName}. ${points.map((line) => {
      const [x, y] = line.at[line.at.length - 1];
      return `${line.label}: ${DS.figure(name, y)} at ${DS.number(x)}`;
    }).join("; ")}. Left and right move over the points.`,
  });
  const rows = DS.ticks(y0, y1, 4);
  // Enough digits to tell neighbours apart, such as ratios of 1.0002 and 1.0004.
  const digits = rows.length > 1 ? Math.min(7, Math.max(3, Math.ceil(-Math.log10(rows[1] - rows[0])))) : 3;
  for (const y of rows) {
    const label = Math.abs(y) < 1e4 && /ratio|loss|reward|nats/.test(name) && !/_frac$/.test(name) ? DS.number(y, digits) : DS.figure(name, y);
    picture.append(DS.svg("path", { class: "grid", d: `M${left},${sy(y)}H${width - right}` }),
      DS.svg("text", { class: "tick", x: left - 6, y: sy(y) + 4, "text-anchor": "end" }, label));
  }
  const isWhole = all.every(([x]) => Number.isInteger(x));
  for (const x of DS.ticks(x0, x1, 5).filter((tick) => !isWhole || Number.isInteger(tick))) {
    picture.append(DS.svg("text", { class: "tick", x: sx(x), y: height - bottom + 16, "text-anchor": "middle" }, DS.number(x)));
  }
  for (const line of points) {
    const style = DS.lineStyle(line.index);
    const group = DS.svg("g", { class: style.colour });
    group.append(DS.svg("path", { class: "line", "stroke-dasharray": style.dash,
      d: line.at.map(([x, y], i) => `${i ? "L" : "M"}${sx(x).toFixed(1)},${sy(y).toFixed(1)}`).join("") }));
    for (const i of DS.spread(line.at.length, 24)) {
      const [x, y] = line.at[i];
      group.append(DS.marker(style.marker, sx(x), sy(y), { class: "marker" }));
    }
    picture.append(group);
  }
  const cursor = DS.svg("path", { class: "cursor", d: "" });
  picture.append(cursor);
  const said = DS.h("p", { class: "reading", role: "status" }, "");
  const xs = [...new Set(all.map(([x]) => x))].sort((a, b) => a - b);
  let place = -1;
  const show = (at) => {
    place = Math.max(0, Math.min(xs.length - 1, at));
    const x = xs[place];
    cursor.setAttribute("d", `M${sx(x)},${top}V${height - bottom}`);
    const values = points.map((line) => [line, line.at.find(([other]) => other === x)]).filter(([, point]) => point);
    said.textContent = `${xName} ${DS.number(x)}: ${values.map(([line, [, y]]) =>
      (points.length > 1 ? `${line.label} ` : "") + DS.figure(name, y)).join(", ")}`;
  };
  picture.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: xs.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation();
    show(place < 0 && event.key === "ArrowLeft" ? xs.length - 1 : moves[event.key]);
  });
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const x = x0 + (((event.clientX - box.left) * (width / box.width) - left) / (width - left - right)) * (x1 - x0);
    let best = 0;
    xs.forEach((other, i) => { if (Math.abs(other - x) < Math.abs(xs[best] - x)) best = i; });
    show(best);
  });
  const values = DS.h("details", {}, DS.h("summary", {}, "values"));
  values.addEventListener("toggle", () => {
    if (!values.open || values.children.length > 1) return;
    values.append(DS.table(title, [[xName, (x) => DS.number(x), true],
      ...points.map((line) => [line.label, (x) => {
        const point = line.at.find(([other]) => other === x);
        return point ? DS.figure(name, point[1]) : "";
      }, true])], xs));
  });
  return DS.h("figure", { "data-name": name }, heading, picture, said, values);
};
