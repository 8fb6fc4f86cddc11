/* Frames of one subscription, taken off the wire where they lie: nothing is copied before an event is made of it. */
#include "native.h"

#define LEAST_SPACE (64 * 1024)
#define NUMBERS 4 /* stream sequence, consumer sequence, time, pending */
#define TOKENS 12 /* of a reply subject; there may be more */
#define SPARES 3

/* Digits to a number; -1 where there is anything else, or too many of them. */
long long
parse_number(const char *start, const char *end)
{
    long long value = 0;
    if (start >= end || end - start > 18)
        return -1;
    for (; start < end; start++) {
        unsigned digit = (unsigned char)*start - '0';
        if (digit > 9)
            return -1;
        value = value * 10 + digit;
    }
    return value;
}

PyObject *
text_of(const char *start, Py_ssize_t size)
{
    return PyUnicode_DecodeUTF8(start, size, "surrogateescape");
}

PyObject *
headers_of(const Frames *frames, const Message *message)
{
    if (message->headers == message->body)
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize(frames->data + message->headers, message->body - message->headers);
}

PyObject *
body_of(const Frames *frames, const Message *message)
{
    return PyBytes_FromStringAndSize(frames->data + message->body, message->end - message->body);
}

typedef struct {
    char *data;
    Message *messages;
    Py_ssize_t room;
} Memory;

typedef struct {
    PyObject_HEAD
    PyObject *sid, *prefix, *hole; /* hole: the exception for a message that does not follow the one before */
    Frames *now;
    PyObject *ready; /* a list of Frames */
    Memory spare[SPARES];
    int spares;
    Py_ssize_t capacity;
    long long delivered, last, pending;
} Parser;

/* -- Frames: a buffer and the messages in it ------------------------------------------------------------------------ */

static Frames *
frames_new(Parser *parser, Py_ssize_t capacity)
{
    Frames *self = PyObject_New(Frames, &Frames_Type);
    if (self == NULL)
        return NULL;
    Memory memory = {0};
    if (capacity == parser->capacity && parser->spares)
        memory = parser->spare[--parser->spares];
    else
        memory.data = PyMem_Malloc((size_t)capacity);
    self->data = memory.data;
    self->messages = memory.messages;
    self->room = memory.room;
    self->capacity = capacity;
    self->filled = self->parsed = self->count = 0;
    self->last = parser->last;
    self->owner = NULL;
    if (self->data == NULL) {
        Py_DECREF(self);
        return (Frames *)PyErr_NoMemory();
    }
    return self;
}

static void
frames_dealloc(Frames *self)
{
    Parser *owner = (Parser *)self->owner;
    if (owner != NULL && self->capacity == owner->capacity && owner->spares < SPARES)
        owner->spare[owner->spares++] = (Memory){self->data, self->messages, self->room};
    else {
        PyMem_Free(self->data);
        PyMem_Free(self->messages);
    }
    PyObject_Free(self);
    Py_XDECREF((PyObject *)owner);
}

static int
frames_buffer(Frames *self, Py_buffer *view, int flags)
{
    return PyBuffer_FillInfo(view, (PyObject *)self, self->data, self->capacity, 0, flags);
}

static Py_ssize_t
frames_length(Frames *self)
{
    return self->count;
}

static PyObject *
frames_item(Frames *self, Py_ssize_t i)
{
    if (i < 0 || i >= self->count) {
        PyErr_SetString(PyExc_IndexError, "there is no such message");
        return NULL;
    }
    const Message *m = &self->messages[i];
    const char *data = self->data;
    PyObject *type = text_of(data + m->type, m->id - 1 - m->type), *id = text_of(data + m->id, m->name - 1 - m->id);
    PyObject *name = text_of(data + m->name, m->subject_end - m->name), *position = PyLong_FromLongLong(m->position);
    PyObject *headers = headers_of(self, m), *body = body_of(self, m), *item = NULL;
    if (type && id && name && position && headers && body)
        item = PyTuple_Pack(6, type, id, name, position, headers, body);
    Py_XDECREF(type);
    Py_XDECREF(id);
    Py_XDECREF(name);
    Py_XDECREF(position);
    Py_XDECREF(headers);
    Py_XDECREF(body);
    return item;
}

static PyObject *
frames_truncate(Frames *self, PyObject *until)
{
    long long last = PyLong_AsLongLong(until);
    if (last == -1 && PyErr_Occurred())
        return NULL;
    while (self->count && self->messages[self->count - 1].position > last)
        self->count--;
    if (self->last > last)
        self->last = last;
    Py_RETURN_NONE;
}

static Message *
frames_add(Frames *self)
{
    if (self->count == self->room) {
        Py_ssize_t room = self->room ? 2 * self->room : 1024;
        Message *messages = PyMem_Realloc(self->messages, (size_t)room * sizeof(Message));
        if (messages == NULL)
            return (Message *)PyErr_NoMemory();
        self->messages = messages;
        self->room = room;
    }
    return &self->messages[self->count++];
}

static PyMethodDef frames_methods[] = {
    {"truncate", (PyCFunction)frames_truncate, METH_O, "Drops the messages after a position."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef frames_members[] = {
    {"last", T_LONGLONG, offsetof(Frames, last), READONLY, "Position up to which the stream was read with these."},
    {NULL, 0, 0, 0, NULL},
};
static PyBufferProcs frames_as_buffer = {.bf_getbuffer = (getbufferproc)frames_buffer};
static PySequenceMethods frames_as_sequence = {
    .sq_length = (lenfunc)frames_length,
    .sq_item = (ssizeargfunc)frames_item,
};

PyTypeObject Frames_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "refold.speedups.Frames",
    .tp_basicsize = sizeof(Frames),
    .tp_dealloc = (destructor)frames_dealloc,
    .tp_as_sequence = &frames_as_sequence,
    .tp_as_buffer = &frames_as_buffer,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "Messages in the order of arrival; see refold.jetstream.frames.",
    .tp_methods = frames_methods,
    .tp_members = frames_members,
};

/* -- Parser: bytes in, frames out ----------------------------------------------------------------------------------- */

/* Goes on in another buffer, with the bytes that are not parsed yet. */
static int
start_anew(Parser *self)
{
    Frames *now = self->now;
    Py_ssize_t rest = now->filled - now->parsed;
    Py_ssize_t wanted = self->capacity;
    while (wanted < 2 * rest + LEAST_SPACE)
        wanted *= 2;
    if (wanted > UINT32_MAX / 2) {
        PyErr_SetString(PyExc_ValueError, "a frame is larger than a gigabyte");
        return -1;
    }
    Frames *next = frames_new(self, wanted);
    if (next == NULL)
        return -1;
    memcpy(next->data, now->data + now->parsed, (size_t)rest);
    next->filled = rest;
    if (now->count && PyList_Append(self->ready, (PyObject *)now) < 0) {
        Py_DECREF(next);
        return -1;
    }
    self->now = next;
    Py_DECREF(now);
    return 0;
}

static PyObject *
parser_space(Parser *self, PyObject *Py_UNUSED(ignored))
{
    if (self->now->capacity - self->now->filled < LEAST_SPACE && start_anew(self) < 0)
        return NULL;
    PyObject *whole = PyMemoryView_FromObject((PyObject *)self->now);
    if (whole == NULL)
        return NULL;
    PyObject *space = PySequence_GetSlice(whole, self->now->filled, self->now->capacity);
    Py_DECREF(whole);
    return space;
}

/* Stream sequence, consumer sequence, (time,) pending count of a reply subject; 0 where it is none of JetStream's. Both forms
 * are known: see refold.jetstream.replies. */
static int
reply_numbers(const char *start, const char *end, long long *numbers)
{
    const char *token[TOKENS + 1];
    int count = 0;
    for (const char *at = start; at != NULL && count < TOKENS; count++) {
        token[count] = at;
        at = memchr(at, '.', (size_t)(end - at));
        token[count + 1] = at == NULL ? end + 1 : ++at;
    }
    int first = count == 9 ? 5 : 7;
    if (count < 9 || count == 10 || memcmp(start, "$JS.ACK.", 8) != 0)
        return 0;
    for (int i = 0; i < NUMBERS; i++) {
        /* The time has more digits than fit, and is not needed. */
        numbers[i] = i == 2 ? 0 : parse_number(token[first + i], token[first + i + 1] - 1);
        if (numbers[i] < 0)
            return 0;
    }
    return 1;
}

/* Keeps a message whose subject is prefix, type, id and name; 0, or -1 for an error. */
static int
keep(Parser *self, const char *subject, const char *end, const char *content, long long head, long long total,
     long long position)
{
    Frames *frames = self->now;
    Py_ssize_t skip = PyBytes_GET_SIZE(self->prefix);
    if (end - subject <= skip || memcmp(subject, PyBytes_AS_STRING(self->prefix), (size_t)skip) != 0)
        return 0;
    const char *type = subject + skip, *dot = memchr(type, '.', (size_t)(end - type));
    const char *id = dot ? dot + 1 : end;
    dot = memchr(id, '.', (size_t)(end - id));
    if (dot == NULL || memchr(dot + 1, '.', (size_t)(end - dot - 1)) != NULL)
        return 0;
    Message *message = frames_add(frames);
    if (message == NULL)
        return -1;
    message->position = position;
    message->type = (uint32_t)(type - frames->data);
    message->id = (uint32_t)(id - frames->data);
    message->name = (uint32_t)(dot + 1 - frames->data);
    message->subject_end = (uint32_t)(end - frames->data);
    message->headers = (uint32_t)(content - frames->data);
    message->body = (uint32_t)(content + head - frames->data);
    message->end = (uint32_t)(content + total - frames->data);
    return 0;
}

static int
malformed(const char *what)
{
    PyErr_SetString(PyExc_ValueError, what);
    return -1;
}

/* Parses the frame of the subscription that a buffer goes on with: 1 done, 0 not all there, 2 it is something else. */
static int
parse_frame(Parser *self)
{
    Frames *frames = self->now;
    const char *at = frames->data + frames->parsed, *end = frames->data + frames->filled;
    const char *line_end = memchr(at, '\r', (size_t)(end - at));
    if (line_end == NULL || line_end + 1 >= end)
        return 0;
    int with_headers = line_end - at > 5 && memcmp(at, "HMSG ", 5) == 0;
    if (line_end[1] != '\n' || !(with_headers || (line_end - at > 4 && memcmp(at, "MSG ", 4) == 0)))
        return 2;
    const char *subject = at + (with_headers ? 5 : 4);
    const char *subject_end = memchr(subject, ' ', (size_t)(line_end - subject));
    if (subject_end == NULL)
        return 2;
    const char *sid = subject_end + 1, *sid_end = memchr(sid, ' ', (size_t)(line_end - sid));
    if (sid_end == NULL || sid_end - sid != PyBytes_GET_SIZE(self->sid) ||
        memcmp(sid, PyBytes_AS_STRING(self->sid), (size_t)(sid_end - sid)) != 0)
        return 2;
    const char *reply = sid_end + 1, *reply_end = memchr(reply, ' ', (size_t)(line_end - reply));
    if (reply_end == NULL)
        return 2; /* no reply subject: a status message */
    const char *size = reply_end + 1, *between = memchr(size, ' ', (size_t)(line_end - size));
    if ((between != NULL) != with_headers)
        return 2;
    long long head = with_headers ? parse_number(size, between) : 0;
    long long total = parse_number(with_headers ? between + 1 : size, line_end);
    if (total < 0 || head < 0 || head > total)
        return malformed("a message frame has no valid sizes");
    const char *content = line_end + 2;
    if (end - content < total + 2)
        return 0;
    if (content[total] != '\r' || content[total + 1] != '\n')
        return malformed("a message frame does not end where it should");
    long long numbers[NUMBERS];
    if (!reply_numbers(reply, reply_end, numbers))
        return malformed("a reply subject is none of JetStream's");
    if (numbers[1] != self->delivered + 1 || numbers[0] <= self->last) {
        PyErr_Format(self->hole, "after position %lld (delivery %lld) came position %lld (delivery %lld)", self->last,
                     self->delivered, numbers[0], numbers[1]);
        return -1;
    }
    if (keep(self, subject, subject_end, content, head, total, numbers[0]) < 0)
        return -1;
    self->delivered++;
    self->last = frames->last = numbers[0];
    self->pending = numbers[3];
    frames->parsed = content + total + 2 - frames->data;
    return 1;
}

static PyObject *
parse_on(Parser *self)
{
    int found;
    while ((found = parse_frame(self)) == 1)
        ;
    return found < 0 ? NULL : PyBool_FromLong(found == 2);
}

static PyObject *
parser_received(Parser *self, PyObject *given)
{
    Py_ssize_t count = PyLong_AsSsize_t(given);
    if (count == -1 && PyErr_Occurred())
        return NULL;
    if (count < 0 || count > self->now->capacity - self->now->filled) {
        PyErr_SetString(PyExc_ValueError, "more was received than there was space for");
        return NULL;
    }
    self->now->filled += count;
    return parse_on(self);
}

static PyObject *
parser_rest(Parser *self, PyObject *Py_UNUSED(ignored))
{
    return PyBytes_FromStringAndSize(self->now->data + self->now->parsed, self->now->filled - self->now->parsed);
}

static PyObject *
parser_skip(Parser *self, PyObject *given)
{
    Py_ssize_t count = PyLong_AsSsize_t(given);
    if (count == -1 && PyErr_Occurred())
        return NULL;
    if (count < 0 || count > self->now->filled - self->now->parsed) {
        PyErr_SetString(PyExc_ValueError, "more is to be skipped than there is");
        return NULL;
    }
    self->now->parsed += count;
    return parse_on(self);
}

static PyObject *
parser_take(Parser *self, PyObject *Py_UNUSED(ignored))
{
    if (PyList_GET_SIZE(self->ready) == 0) {
        if (self->now->count == 0)
            Py_RETURN_NONE;
        if (start_anew(self) < 0)
            return NULL;
    }
    Frames *first = (Frames *)Py_NewRef(PyList_GET_ITEM(self->ready, 0));
    if (PyList_SetSlice(self->ready, 0, 1, NULL) < 0) {
        Py_DECREF(first);
        return NULL;
    }
    first->owner = Py_NewRef((PyObject *)self);
    return (PyObject *)first;
}

static PyObject *
parser_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *sid, *prefix, *hole;
    Py_ssize_t capacity;
    if (!PyArg_ParseTuple(args, "SSnO", &sid, &prefix, &capacity, &hole))
        return NULL;
    if (capacity < 2 * LEAST_SPACE) {
        PyErr_SetString(PyExc_ValueError, "the buffer is too small");
        return NULL;
    }
    Parser *self = (Parser *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->sid = Py_NewRef(sid);
    self->prefix = Py_NewRef(prefix);
    self->hole = Py_NewRef(hole);
    self->capacity = capacity;
    self->ready = PyList_New(0);
    self->now = frames_new(self, capacity);
    if (self->ready == NULL || self->now == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void
parser_dealloc(Parser *self)
{
    Py_XDECREF(self->sid);
    Py_XDECREF(self->prefix);
    Py_XDECREF(self->hole);
    Py_XDECREF(self->ready);
    Py_XDECREF((PyObject *)self->now);
    while (self->spares--) {
        PyMem_Free(self->spare[self->spares].data);
        PyMem_Free(self->spare[self->spares].messages);
    }
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef parser_methods[] = {
    {"space", (PyCFunction)parser_space, METH_NOARGS, "Where received bytes go."},
    {"received", (PyCFunction)parser_received, METH_O, "Parses so many new bytes; whether something else begins then."},
    {"rest", (PyCFunction)parser_rest, METH_NOARGS, "The bytes that are not parsed."},
    {"skip", (PyCFunction)parser_skip, METH_O, "Passes over bytes and parses on; whether something else begins then."},
    {"take", (PyCFunction)parser_take, METH_NOARGS, "Messages in the order of arrival; None where there are none."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef parser_members[] = {
    {"delivered", T_LONGLONG, offsetof(Parser, delivered), READONLY, "How many messages came."},
    {"last", T_LONGLONG, offsetof(Parser, last), READONLY, "Position of the last of them; 0 before the first."},
    {"pending", T_LONGLONG, offsetof(Parser, pending), READONLY, "How many were left after the last one."},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject Parser_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "refold.speedups.Parser",
    .tp_basicsize = sizeof(Parser),
    .tp_new = parser_new,
    .tp_dealloc = (destructor)parser_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Parser(sid, prefix, capacity, hole): see refold.jetstream.frames.",
    .tp_methods = parser_methods,
    .tp_members = parser_members,
};
