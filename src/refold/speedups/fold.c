/* From messages to views: which handler wants a message, the view it goes to, and the view's own fields. */
#include "native.h"

#define STRIDE 8  /* messages between one look at a message and the next, so that what is asked for has come by then */
#define RING 32   /* a power of two, more than three strides */
#define POOL 16384 /* CPython keeps small objects in pools of this size, and the head of a pool is touched when one is let go */
#define MEMO 32   /* subjects' types and names that came lately */

/* -- OwnStep: folds events into views whose key is their aggregate's id ---------------------------------------------- */

enum { V_VERSION, V_UPDATED_AT, V_POSITION, V_FIELDS };
static const char *const view_fields[V_FIELDS] = {"version", "updated_at", "position"};
enum { S_AGGREGATE_ID, S_VERSION, S_TIMESTAMP, S_POSITION, S_FIELDS };
static const char *const step_fields[S_FIELDS] = {"aggregate_id", "version", "timestamp", "position"};

typedef struct {
    PyObject_HEAD
    Views *hot;
    PyObject *handler, *miss, *failed, *finish, *duplicate;
    PyTypeObject *view_class, *event_class;
    Py_ssize_t view_at[V_FIELDS], event_at[S_FIELDS];
} OwnStep;

static void
replace(PyObject *view, Py_ssize_t at, PyObject *value)
{
    PyObject *old = SLOT(view, at);
    SLOT(view, at) = Py_NewRef(value);
    Py_XDECREF(old);
}

/* Whether a version is at or below another; -1 for an error. Nearly all are small. */
static int
is_old(PyObject *version, PyObject *handled)
{
    int overflow, other;
    long long new = PyLong_AsLongLongAndOverflow(version, &overflow), old = PyLong_AsLongLongAndOverflow(handled, &other);
    if (PyErr_Occurred())
        return -1;
    return overflow || other ? PyObject_RichCompareBool(version, handled, Py_LE) : new <= old;
}

/* Hands the error that is set to `failed`; 0, or -1 where that raised, or it is none for a fold to deal with. */
static int
tell_failure(OwnStep *self, PyObject *key, PyObject *event)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace != NULL)
        PyException_SetTraceback(error, trace);
    PyObject *told = PyObject_CallFunctionObjArgs(self->failed, key, event, error, NULL);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    Py_XDECREF(told);
    return told == NULL ? -1 : 0;
}

static PyObject *
handled(OwnStep *self, PyObject *key, PyObject *view, PyObject *event)
{
    PyObject *arguments[] = {NULL, view, event};
    PyObject *result = PyObject_Vectorcall(self->handler, arguments + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (result == Py_None) {
        Py_DECREF(result);
        return Py_NewRef(view);
    }
    if (result == NULL)
        return NULL;
    PyObject *changed = PyObject_CallFunctionObjArgs(self->finish, key, view, event, result, NULL);
    Py_DECREF(result);
    return changed;
}

static int
fold_into(OwnStep *self, PyObject *key, PyObject *view, PyObject *event)
{
    PyObject *version = SLOT(event, self->event_at[S_VERSION]);
    if (!Py_IS_TYPE(view, self->view_class) || !PyLong_Check(SLOT(view, self->view_at[V_VERSION]))) {
        PyErr_SetString(PyExc_TypeError, "the view is not of the projector's class, or has no version");
        return -1;
    }
    int old = is_old(version, SLOT(view, self->view_at[V_VERSION]));
    if (old != 0) {
        PyObject *told = old < 0 ? NULL : PyObject_CallNoArgs(self->duplicate);
        Py_XDECREF(told);
        return told == NULL ? -1 : 0;
    }
    PyObject *changed = handled(self, key, view, event);
    if (changed == NULL)
        return tell_failure(self, key, event);
    if (Py_IS_TYPE(changed, self->view_class)) { /* else None, after a DELETE */
        replace(changed, self->view_at[V_VERSION], version);
        replace(changed, self->view_at[V_UPDATED_AT], SLOT(event, self->event_at[S_TIMESTAMP]));
        replace(changed, self->view_at[V_POSITION], SLOT(event, self->event_at[S_POSITION]));
    }
    Py_DECREF(changed);
    return 0;
}

/* Folds an event into the view of its aggregate, which is given where it is known to be there. */
static int
own_step(OwnStep *self, PyObject *event, PyObject *known)
{
    PyObject *key = SLOT(event, self->event_at[S_AGGREGATE_ID]), *view = Py_XNewRef(known);
    if (view == NULL) {
        Slot *slot = views_find(self->hot, key);
        if (slot == NULL && PyErr_Occurred())
            return -1;
        view = slot ? Py_NewRef(slot->view) : PyObject_CallFunctionObjArgs(self->miss, key, event, NULL);
        if (view == NULL)
            return -1;
    }
    int done = view == Py_None ? 0 : fold_into(self, key, view, event);
    Py_DECREF(view);
    return done;
}

static PyObject *
step_call(OwnStep *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *event;
    if (!PyArg_ParseTuple(args, "O!", self->event_class, &event) || own_step(self, event, NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
step_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *view_class, *event_class, *hot, *handler, *miss, *failed, *finish, *duplicate;
    Py_ssize_t view_at[V_FIELDS], event_at[S_FIELDS];
    if (!PyArg_ParseTuple(args, "O!O!O!OOOOO", &PyType_Type, &view_class, &PyType_Type, &event_class, &Views_Type, &hot,
                          &handler, &miss, &failed, &finish, &duplicate) ||
        slots_of(view_class, view_fields, V_FIELDS, view_at) < 0 ||
        slots_of(event_class, step_fields, S_FIELDS, event_at) < 0)
        return NULL;
    OwnStep *self = (OwnStep *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->view_class = (PyTypeObject *)Py_NewRef(view_class);
    self->event_class = (PyTypeObject *)Py_NewRef(event_class);
    self->hot = (Views *)Py_NewRef(hot);
    self->handler = Py_NewRef(handler);
    self->miss = Py_NewRef(miss);
    self->failed = Py_NewRef(failed);
    self->finish = Py_NewRef(finish);
    self->duplicate = Py_NewRef(duplicate);
    memcpy(self->view_at, view_at, sizeof(view_at));
    memcpy(self->event_at, event_at, sizeof(event_at));
    return (PyObject *)self;
}

static int
step_traverse(OwnStep *self, visitproc visit, void *arg)
{
    Py_VISIT(self->view_class);
    Py_VISIT(self->event_class);
    Py_VISIT((PyObject *)self->hot);
    Py_VISIT(self->handler);
    Py_VISIT(self->miss);
    Py_VISIT(self->failed);
    Py_VISIT(self->finish);
    Py_VISIT(self->duplicate);
    return 0;
}

static int
step_clear(OwnStep *self)
{
    Py_CLEAR(self->view_class);
    Py_CLEAR(self->event_class);
    Py_CLEAR(self->hot);
    Py_CLEAR(self->handler);
    Py_CLEAR(self->miss);
    Py_CLEAR(self->failed);
    Py_CLEAR(self->finish);
    Py_CLEAR(self->duplicate);
    return 0;
}

static void
step_dealloc(OwnStep *self)
{
    PyObject_GC_UnTrack(self);
    step_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

PyTypeObject OwnStep_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "refold.speedups.OwnStep",
    .tp_basicsize = sizeof(OwnStep),
    .tp_new = step_new,
    .tp_dealloc = (destructor)step_dealloc,
    .tp_traverse = (traverseproc)step_traverse,
    .tp_clear = (inquiry)step_clear,
    .tp_call = (ternaryfunc)step_call,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "OwnStep(view_class, event_class, hot, handler, miss, failed, finish, duplicate): see refold.engine.step.",
};

/* -- Dispatch: which step wants a message ---------------------------------------------------------------------------- */

/* An entry is (decode, step, aggregate type, event type, …). */
enum { DECODE, STEP, AGGREGATE_TYPE, EVENT_TYPE };

typedef struct {
    const Frames *frames;
    PyObject *tables; /* {type token: {name token: entries}} */
    int grows;        /* whether a type that no table knows may get one */
    struct {
        const Message *message; /* the first with this type and name */
        PyObject *entries;      /* borrowed; None: nobody wants it; NULL: needs a closer look */
    } memo[MEMO];
} Lookup;

static int
same_kind(const Frames *frames, const Message *a, const Message *b)
{
    const char *data = frames->data;
    size_t type = a->id - a->type, name = a->subject_end - a->name;
    return b->id - b->type == type && b->subject_end - b->name == name && memcmp(data + a->type, data + b->type, type) == 0 &&
           memcmp(data + a->name, data + b->name, name) == 0;
}

/* The entries of a message, borrowed; None where nobody wants it; NULL, perhaps with an exception, where it needs a closer
 * look. */
static PyObject *
entries_of(Lookup *lookup, const Message *m)
{
    const char *data = lookup->frames->data;
    unsigned hash = 5381;
    for (uint32_t i = m->name; i < m->subject_end; i++)
        hash = hash * 33 + (unsigned char)data[i];
    hash %= MEMO;
    if (lookup->memo[hash].message != NULL && same_kind(lookup->frames, lookup->memo[hash].message, m))
        return lookup->memo[hash].entries;
    PyObject *type = text_of(data + m->type, m->id - 1 - m->type), *name = text_of(data + m->name, m->subject_end - m->name);
    PyObject *table = type && name ? PyDict_GetItemWithError(lookup->tables, type) : NULL;
    PyObject *entries = table ? PyDict_GetItemWithError(table, name) : NULL;
    /* Tokens with escapes may be written in another way than those of the tables. */
    int escaped = memchr(data + m->type, '%', m->id - m->type) != NULL ||
                  memchr(data + m->name, '%', m->subject_end - m->name) != NULL;
    if (entries == NULL && !escaped && (table != NULL || !lookup->grows))
        entries = Py_None;
    if (!PyErr_Occurred() && (entries != NULL || !lookup->grows)) {
        lookup->memo[hash].message = m;
        lookup->memo[hash].entries = entries;
    }
    Py_XDECREF(type);
    Py_XDECREF(name);
    return entries;
}

/* What was found out ahead about a message. */
typedef struct {
    PyObject *entry; /* borrowed; NULL: needs a closer look */
    int unwanted;
    Views *views;      /* borrowed; NULL where the view is not looked for ahead */
    Py_ssize_t length; /* of a view, in bytes */
    Py_hash_t hash;    /* of the aggregate's id */
} Ahead;

static int
look_ahead(Lookup *lookup, const Message *m, Ahead *ahead)
{
    PyObject *entries = entries_of(lookup, m);
    *ahead = (Ahead){.unwanted = entries == Py_None};
    if (entries == NULL || ahead->unwanted || PyTuple_GET_SIZE(entries) != 1)
        return PyErr_Occurred() ? -1 : 0;
    const char *id = lookup->frames->data + m->id;
    Py_ssize_t size = m->name - 1 - m->id;
    if (memchr(id, '%', (size_t)size) != NULL)
        return 0;
    ahead->entry = PyTuple_GET_ITEM(entries, 0);
    PyObject *step = PyTuple_GET_ITEM(ahead->entry, STEP);
    if (Py_IS_TYPE(step, &OwnStep_Type) && is_plain(id, size)) {
        ahead->views = ((OwnStep *)step)->hot;
        ahead->hash = hash_of(id, size);
        ahead->length = ((OwnStep *)step)->view_class->tp_basicsize;
        PREFETCH(&ahead->views->slots[(size_t)ahead->hash & ahead->views->mask]);
    }
    return 0;
}

/* Views are looked up anew each time: meanwhile handlers run, and may let go of them. */
static void
fetch_view(const Ahead *ahead)
{
    const Slot *slot = ahead->views ? views_peek(ahead->views, ahead->hash) : NULL;
    if (slot == NULL)
        return;
    PREFETCH((char *)slot->key);
    PREFETCH((char *)slot->key + sizeof(PyASCIIObject));
    for (Py_ssize_t at = 0; at < ahead->length + 63; at += 64)
        PREFETCH((char *)slot->view + (at < ahead->length ? at : ahead->length - 1));
}

/* What a view holds is let go of as it changes. */
static void
fetch_fields(const Ahead *ahead)
{
    const Slot *slot = ahead->views ? views_peek(ahead->views, ahead->hash) : NULL;
    Py_ssize_t least = sizeof(PyObject), most = ahead->length - (Py_ssize_t)sizeof(PyObject *);
    for (Py_ssize_t at = least; slot != NULL && at <= most; at += sizeof(PyObject *)) {
        PREFETCH(SLOT(slot->view, at));
        PREFETCH((char *)((uintptr_t)SLOT(slot->view, at) & ~(uintptr_t)(POOL - 1)));
    }
}

/* Whether an attribute of an event equals a text; -1 for an error. */
static int
is_equal(PyObject *event, const char *name, PyObject *text)
{
    PyObject *value = PyObject_GetAttrString(event, name);
    if (value == NULL)
        return -1;
    int same = value == text || (PyUnicode_Check(value) && PyUnicode_Compare(value, text) == 0);
    Py_DECREF(value);
    return same;
}

/* Events are frozen for everybody else. */
static int
set_field(PyObject *event, const char *name, PyObject *value)
{
    PyObject *key = value ? PyUnicode_InternFromString(name) : NULL;
    int failed = key == NULL || PyObject_GenericSetAttr(event, key, value) < 0;
    Py_XDECREF(key);
    Py_XDECREF(value);
    return failed ? -1 : 1;
}

/* The event of a message by any codec; NULL, perhaps without an exception, where a closer look is due. */
static PyObject *
any_event(const Frames *frames, const Message *m, PyObject *entry, PyObject *id)
{
    PyObject *body = body_of(frames, m), *headers = headers_of(frames, m), *event = NULL;
    if (body && headers)
        event = PyObject_CallFunctionObjArgs(PyTuple_GET_ITEM(entry, DECODE), body, headers, NULL);
    Py_XDECREF(body);
    if (event == NULL) {
        Py_XDECREF(headers);
        if (PyErr_ExceptionMatches(PyExc_Exception))
            PyErr_Clear(); /* decoded once more where the reason is told */
        return NULL;
    }
    int well = is_equal(event, "aggregate_id", id);
    if (well == 1)
        well = is_equal(event, "type", PyTuple_GET_ITEM(entry, EVENT_TYPE));
    if (well == 1)
        well = is_equal(event, "aggregate_type", PyTuple_GET_ITEM(entry, AGGREGATE_TYPE));
    if (well == 1)
        well = set_field(event, "position", PyLong_FromLongLong(m->position));
    if (well == 1)
        well = set_field(event, "raw_headers", Py_NewRef(headers));
    Py_DECREF(headers);
    if (well != 1)
        Py_CLEAR(event);
    return event;
}

static PyObject *
event_of(const Frames *frames, const Message *m, PyObject *entry, PyObject *id)
{
    PyObject *decode = PyTuple_GET_ITEM(entry, DECODE), *event = NULL;
    if (Py_IS_TYPE(decode, &EnvelopeDecoder_Type))
        event = envelope_event((EnvelopeDecoder *)decode, frames, m, id, PyTuple_GET_ITEM(entry, AGGREGATE_TYPE),
                               PyTuple_GET_ITEM(entry, EVENT_TYPE));
    return event != NULL || PyErr_Occurred() ? event : any_event(frames, m, entry, id);
}

/* An event that no handler has kept is used again: it is nobody's any more. */
static void
let_go(PyObject *decode, PyObject *event)
{
    EnvelopeDecoder *decoder = Py_IS_TYPE(decode, &EnvelopeDecoder_Type) ? (EnvelopeDecoder *)decode : NULL;
    if (event != NULL && decoder != NULL && decoder->spare == NULL && Py_REFCNT(event) == 1 &&
        Py_IS_TYPE(event, decoder->event_class))
        decoder->spare = event;
    else
        Py_XDECREF(event);
}

/* Folds one message: 1 done, 0 needs a closer look, -1 error. */
static int
fold(const Frames *frames, const Message *m, const Ahead *ahead)
{
    const char *text = frames->data + m->id;
    Py_ssize_t size = m->name - 1 - m->id;
    Slot *slot = ahead->views ? views_find_text(ahead->views, ahead->hash, text, size) : NULL;
    PyObject *view = slot ? Py_NewRef(slot->view) : NULL, *id = slot ? Py_NewRef(slot->key) : text_of(text, size);
    PyObject *event = id ? event_of(frames, m, ahead->entry, id) : NULL, *step = PyTuple_GET_ITEM(ahead->entry, STEP);
    int done = PyErr_Occurred() ? -1 : 0;
    if (event != NULL) {
        if (Py_IS_TYPE(step, &OwnStep_Type) && Py_IS_TYPE(event, ((OwnStep *)step)->event_class))
            done = own_step((OwnStep *)step, event, view) < 0 ? -1 : 1;
        else {
            PyObject *result = PyObject_CallOneArg(step, event);
            done = result == NULL ? -1 : 1;
            Py_XDECREF(result);
        }
    }
    let_go(PyTuple_GET_ITEM(ahead->entry, DECODE), event);
    Py_XDECREF(id);
    Py_XDECREF(view);
    return done;
}

static int
call_with_index(PyObject *unusual, Py_ssize_t i)
{
    PyObject *index = PyLong_FromSsize_t(i), *result = index ? PyObject_CallOneArg(unusual, index) : NULL;
    Py_XDECREF(index);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

PyObject *
dispatch(PyObject *Py_UNUSED(module), PyObject *args)
{
    Frames *frames;
    PyObject *tables, *unusual;
    int grows;
    if (!PyArg_ParseTuple(args, "O!O!pO", &Frames_Type, &frames, &PyDict_Type, &tables, &grows, &unusual))
        return NULL;
    Lookup lookup = {.frames = frames, .tables = tables, .grows = grows};
    Ahead ring[RING] = {{0}};
    int failed = 0;
    /* Each message is looked at four times, each time at what the look before has asked the memory for. */
    for (Py_ssize_t i = 0; i < frames->count + 3 * STRIDE && !failed; i++) {
        if (i < frames->count)
            failed = look_ahead(&lookup, &frames->messages[i], &ring[i % RING]) < 0;
        if (i >= STRIDE && i - STRIDE < frames->count)
            fetch_view(&ring[(i - STRIDE) % RING]);
        if (i >= 2 * STRIDE && i - 2 * STRIDE < frames->count)
            fetch_fields(&ring[(i - 2 * STRIDE) % RING]);
        Py_ssize_t due = i - 3 * STRIDE;
        if (due < 0 || failed || ring[due % RING].unwanted)
            continue;
        const Ahead *ahead = &ring[due % RING];
        int done = ahead->entry == NULL ? 0 : fold(frames, &frames->messages[due], ahead);
        failed = done < 0 || (done == 0 && call_with_index(unusual, due) < 0);
    }
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}
