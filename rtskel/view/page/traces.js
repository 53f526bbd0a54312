// One coordinate of joints over time: raw and refined, with a mark at the time that the picture shows.

export class Traces {
  constructor(element, onRemove) {
    this.element = element;
    this.onRemove = onRemove;
    this.all = []; // {person, joint, canvas, value}
  }

  has(person, joint) { return this.all.some(each => each.person === person && each.joint === joint); }

  add(person, joint, title) {
    if (this.has(person, joint)) return;
    if (this.all.length === 4) this.remove(this.all[0]);
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    const name = document.createElement("span"), value = document.createElement("span"), close = document.createElement("button");
    const canvas = document.createElement("canvas");
    name.textContent = title;
    close.textContent = "×";
    close.ariaLabel = `Stop following ${title}`;
    value.append(document.createTextNode(""), close);
    caption.append(name, value);
    figure.append(caption, canvas);
    this.element.append(figure);
    const trace = {person, joint, canvas, figure, value: value.firstChild};
    close.onclick = () => { this.remove(trace); this.onRemove(); };
    this.all.push(trace);
  }

  remove(trace) {
    trace.figure.remove();
    this.all = this.all.filter(each => each !== trace);
  }

  draw(scene, view) {
    for (const trace of this.all) this.one(trace, scene, view(trace.person));
  }

  one({person, joint, canvas, value}, scene, {time, end, span, raw, refined, axis}) {
    const ratio = Math.min(devicePixelRatio || 1, 2), width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
    const c = canvas.getContext("2d");
    c.clearRect(0, 0, width, height);
    const sign = axis === 1 ? -1 : 1, {scale, origin} = person.place;
    const at = frame => sign * (frame.xyz[3 * joint + axis] - origin[axis]) * scale * 100; // cm, y up
    const lines = [[raw, "raw"], [refined, "refined"]].filter(([track]) => track).map(([track, kind]) =>
      [track, kind, track.between(end - span, end).filter(frame => kind === "refined" || frame.confidence[joint])]);
    const values = lines.flatMap(([, , frames]) => frames.map(at));
    if (!values.length) return;
    let low = Math.min(...values), high = Math.max(...values);
    const least = 4; // cm
    if (high - low < least) [low, high] = [(low + high - least) / 2, (low + high + least) / 2];
    const x = frame => width - (end - frame.time) / span * width, pad = 5 * ratio;
    const y = frame => pad + (high - at(frame)) / (high - low) * (height - 2 * pad);
    c.strokeStyle = scene.colours.line.full;
    c.lineWidth = ratio;
    c.strokeRect(0.5, 0.5, width - 1, height - 1);
    for (const [track, kind, frames] of lines) {
      const solid = kind === "refined" || lines.length === 1;
      for (const filled of kind === "refined" ? [false, true] : [false]) {
        c.beginPath();
        for (let i = 1; i < frames.length; i++) {
          const [a, b] = [frames[i - 1], frames[i]];
          if (b.time - a.time > 1.6 * track.period || (kind === "refined" && !b.confidence[joint] !== filled)) continue;
          c.moveTo(x(a), y(a));
          c.lineTo(x(b), y(b));
        }
        c.strokeStyle = kind === "raw" ? scene.colours.raw.full : filled ? scene.colours.filled.full : scene.colours.right.full;
        c.globalAlpha = solid ? 1 : 0.55;
        c.lineWidth = (solid ? 1.8 : 1.2) * ratio;
        c.stroke();
      }
    }
    c.globalAlpha = 1;
    c.fillStyle = scene.colours.ink.full;
    if (time < end) c.fillRect(width - (end - time) / span * width, 0, ratio, height);
    const now = lines[lines.length - 1][0].at(time);
    value.nodeValue = now ? `${at(now).toFixed(1)} cm ` : "";
  }
}
