"""The SDK in a plain FastAPI application with its own tables, by SQLAlchemy.

The order and its message are one transaction. The sender lives in the application's lifespan: it publishes what a
request has just committed, and whatever another process left behind.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import sqlalchemy as sa
from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from outhaul import Message, Outbox, Sender
from outhaul.sqlalchemy import add_async, wake_after_commit

DATABASE_URL = os.environ["DATABASE_URL"]
AMQP_URL = os.environ["AMQP_URL"]

outbox = Outbox(exchange="shop.events")
engine = create_async_engine(DATABASE_URL.replace("postgresql://", "postgresql+psycopg://", 1))
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """The application's own tables; Outhaul's come from ``outhaul schema apply --component outbox``."""


class Order(Base):
    __tablename__ = "orders"
    order_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    customer: Mapped[str]
    quantity: Mapped[int]


class NewOrder(BaseModel):
    customer: str = Field(min_length=1, max_length=200)
    quantity: int = Field(gt=0, le=1000)


class OrderCreated(BaseModel):
    """The message's data: a contract with other services, so not the table's own class."""

    order_id: uuid.UUID
    customer: str
    quantity: int


def created(order: Order) -> Message:
    data = OrderCreated(order_id=order.order_id, customer=order.customer, quantity=order.quantity)
    return Message(
        type="shop.order.created.v1", routing_key="order.created", aggregate_id=str(order.order_id), data=data
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as conn:
        await conn.run_sync(Base.metadata.create_all)
    async with Sender(outbox, dsn=DATABASE_URL, amqp_url=AMQP_URL) as sender:  # starts without the broker
        app.state.sender = sender
        yield
    await engine.dispose()


app = FastAPI(title="Orders", lifespan=lifespan)


async def session() -> AsyncIterator[AsyncSession]:
    async with sessions() as opened:
        yield opened


Session = Annotated[AsyncSession, Depends(session)]


@app.post("/orders", status_code=201)
async def place_order(new: NewOrder, db: Session, request: Request) -> dict[str, str]:
    order = Order(customer=new.customer, quantity=new.quantity)
    db.add(order)
    await db.flush()  # order_id now has its value
    await add_async(db, outbox, created(order))
    wake_after_commit(db, request.app.state.sender)  # a hint; without it the sender's poll finds the row
    await db.commit()
    return {"order_id": str(order.order_id)}


@app.get("/orders/{order_id}")
async def get_order(order_id: uuid.UUID, db: Session) -> dict[str, str | int]:
    order = await db.get(Order, order_id)
    if order is None:
        raise HTTPException(404, "no such order")
    sent = await db.scalar(sa.text("SELECT true FROM outbox_sent WHERE aggregate_id = :id"), {"id": str(order_id)})
    return {"customer": order.customer, "quantity": order.quantity, "message": "sent" if sent else "pending"}


@app.get("/healthz")
async def healthz(request: Request) -> dict[str, str]:
    """Alive. What the broker does is shown, and does not make the application unhealthy: orders are still taken."""
    return {"status": "ok", "broker": request.app.state.sender.state().broker}
