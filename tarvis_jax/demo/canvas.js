// The picture that takes clicks and strokes. `element`, `props`, `watch` and `trigger` are Gradio's (gr.HTML).
// props.value: {image, frame, height, width, color, draws} of `Page._picture`, or null. What the visitor draws is sent
// with the event 'input' as {tool, points: [[y, x], ...], width, frame}, in pixels of the clip's own frames.
const canvas = element.querySelector('canvas'), output = element.querySelector('output');
const pen = canvas.getContext('2d');
const image = new Image();
let view = null;     // the value that `image` shows
let stroke = [];     // points of the stroke that is being drawn
let isDown = false;
let cross = null;    // [y, x] of the keyboard's cross
const MOST_POINTS = 5000;

const tool = () => document.querySelector('#tool input:checked')?.value ?? 'point';
const brush = () => Number(document.querySelector('#brush input')?.value) || 1;

function paint() {
  if (!view || !image.naturalWidth) return;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  const scale = canvas.width / view.width;
  const at = ([y, x]) => [(x + 0.5) * scale, (y + 0.5) * scale];
  if (stroke.length && tool() !== 'point') {
    pen.globalAlpha = 0.6;
    pen.lineWidth = Math.max(1, brush() * scale);
    pen.lineCap = pen.lineJoin = 'round';
    pen.strokeStyle = tool() === 'erase' ? '#ffffff' : view.color;
    pen.beginPath();
    pen.moveTo(...at(stroke[0]));
    for (const point of [...stroke, stroke[stroke.length - 1]]) pen.lineTo(...at(point));
    pen.stroke();
    pen.globalAlpha = 1;
  }
  if (cross && document.activeElement === canvas) {
    const [x, y] = at(cross), reach = Math.max(10, canvas.width / 40);
    for (const [width, style] of [[5, '#000000'], [2, '#ffffff']]) {
      pen.lineWidth = width;
      pen.strokeStyle = style;
      pen.beginPath();
      pen.moveTo(x - reach, y); pen.lineTo(x + reach, y);
      pen.moveTo(x, y - reach); pen.lineTo(x, y + reach);
      pen.stroke();
    }
  }
}

function show() {
  const next = props.value;
  if (!next) return;
  image.onload = () => {
    view = next;
    if (canvas.width !== image.naturalWidth || canvas.height !== image.naturalHeight) {
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      canvas.style.maxWidth = `${75 * canvas.width / canvas.height}vh`;  // not higher than the window
    }
    if (cross && (cross[0] >= view.height || cross[1] >= view.width)) cross = null;
    canvas.dataset.frame = view.frame;
    canvas.dataset.height = view.height;
    canvas.dataset.width = view.width;
    if (!isDown) stroke = [];
    paint();
  };
  image.src = next.image;
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  const inside = (share, size) => Math.min(size - 1, Math.max(0, Math.floor(share * size)));
  return [inside((event.clientY - box.top) / box.height, view.height),
          inside((event.clientX - box.left) / box.width, view.width)];
}

function send(points) {
  trigger('input', {tool: tool(), points: points, width: brush(), frame: view.frame});
}

canvas.addEventListener('pointerdown', event => {
  if (!view || event.button !== 0) return;
  if (tool() === 'point') return;
  canvas.setPointerCapture(event.pointerId);
  isDown = true;
  stroke = [place(event)];
  paint();
});
canvas.addEventListener('pointermove', event => {
  if (!isDown || stroke.length >= MOST_POINTS) return;
  const point = place(event), last = stroke[stroke.length - 1];
  if (point[0] === last[0] && point[1] === last[1]) return;
  stroke.push(point);
  paint();
});
canvas.addEventListener('pointerup', () => {
  if (!isDown) return;
  isDown = false;
  send(stroke);  // it stays in sight until the server's picture comes
});
canvas.addEventListener('pointercancel', () => { isDown = false; stroke = []; paint(); });
canvas.addEventListener('click', event => {
  if (view && tool() === 'point') send([place(event)]);
});

canvas.addEventListener('keydown', event => {
  const moves = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
  if (!view) return;
  if (event.key in moves) {
    const far = event.shiftKey ? 10 : 1;
    cross = cross ?? [Math.floor(view.height / 2), Math.floor(view.width / 2)];
    cross = cross.map((value, axis) => Math.min([view.height, view.width][axis] - 1,
                                                Math.max(0, value + far * moves[event.key][axis])));
    output.textContent = `Cross at y = ${cross[0]}, x = ${cross[1]}.`;
    event.preventDefault();
    paint();
  } else if (event.key === 'Enter' || event.key === ' ') {
    event.preventDefault();
    cross = cross ?? [Math.floor(view.height / 2), Math.floor(view.width / 2)];
    send([cross]);
  }
});
canvas.addEventListener('focus', paint);
canvas.addEventListener('blur', paint);

// A finger that paints must not scroll the page; one that only points may.
function settleTouch() { canvas.style.touchAction = tool() === 'point' ? 'manipulation' : 'none'; }
document.addEventListener('change', settleTouch);
settleTouch();
watch('value', show);
show();
