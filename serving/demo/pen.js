// The strokes of one drawing: lists of points, each [x, y] from 0 to 1. They are the component's value.
const canvas = element.querySelector("canvas"), paper = canvas.getContext("2d");
const said = element.querySelector("[role=status]"), side = canvas.width, step = 0.05;
let strokes = [], stroke = null, pen = [0.5, 0.2], typing = false;

function show() {
  paper.clearRect(0, 0, side, side);
  Object.assign(paper, { lineWidth: side * 0.07, lineCap: "round", lineJoin: "round", strokeStyle: "#111" });
  for (const points of strokes) {
    paper.beginPath();
    for (const [x, y] of [points[0], ...points]) paper.lineTo(x * side, y * side);
    paper.stroke();
  }
  if (!typing) return;
  paper.fillStyle = stroke ? "#b00020" : "#00529b";
  paper.fillRect(pen[0] * side - 5, pen[1] * side - 5, 10, 10);
}

function told() {
  const text = JSON.stringify(strokes.map((points) => points.map((point) => point.map((n) => +n.toFixed(4)))));
  if (text !== props.value) props.value = text;
}

function begin(point) {
  stroke = [point];
  strokes.push(stroke);
  show();
}

function end() {
  if (!stroke) return;
  stroke = null;
  show();
  told();
}

function clear() {
  strokes = [];
  stroke = null;
  show();
  told();
}

function at(event) {
  const box = canvas.getBoundingClientRect();
  const share = (n) => Math.min(1, Math.max(0, n));
  return [share((event.clientX - box.left) / box.width), share((event.clientY - box.top) / box.height)];
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  typing = false;
  canvas.setPointerCapture(event.pointerId);
  begin(at(event));
});
canvas.addEventListener("pointermove", (event) => {
  if (!stroke || typing) return;
  for (const one of event.getCoalescedEvents?.() ?? [event]) stroke.push(at(one));
  show();
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => typing || end());

const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  const move = moves[event.key];
  if (!move && ![" ", "Delete", "Backspace"].includes(event.key)) return;
  event.preventDefault();
  typing = true;
  if (move) {
    pen = pen.map((n, i) => Math.min(1, Math.max(0, n + move[i] * step)));
    stroke?.push([...pen]);
    show();
  } else if (event.key !== " ") clear();
  else if (stroke) end();
  else begin([...pen]);
  said.textContent = stroke ? "The pen is down." : strokes.length ? "The pen is up." : "The field is empty.";
});
canvas.addEventListener("blur", () => {
  end();
  typing = false;
  show();
});
element.querySelector(".clear").addEventListener("click", clear);
show();
